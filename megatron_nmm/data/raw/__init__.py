"""Raw data of any supported form as a stream of records: what a corpus and a tokenizer are made from."""
