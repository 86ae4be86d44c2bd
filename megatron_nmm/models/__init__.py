"""Native multimodal models as spec trees on megatron-core."""
