# The CUDA training image: NVIDIA's PyTorch container, which brings torch, Transformer Engine, apex and DALI built for
# one another, plus megatron_nmm, added without replacing any of them.
#
#   docker build --tag megatron_nmm .
#   docker run --gpus all --ipc host --ulimit memlock=-1 --rm --interactive --tty megatron_nmm
FROM nvcr.io/nvidia/pytorch:26.05-py3

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /opt/megatron_nmm

# Extended regular expression of the packages whose compiled code was built for one another.
ARG KEEP='^(torch|torchvision|triton|numpy|transformer[-_]engine.*|apex|nvidia-dali.*)=='

COPY . .

# pip must find everything else around the kept packages: with them as its constraints it stops with a conflict where
# it would have to replace one. The container's own constraints (PIP_CONSTRAINT) also pin pure Python packages below
# what megatron-core needs, so they are set aside. The comparison at the end proves that nothing was replaced.
RUN python -m pip list --format freeze | grep -iE "$KEEP" > /tmp/keep.txt \
    && PIP_CONSTRAINT='' python -m pip install --no-cache-dir --constraint /tmp/keep.txt --editable '.[examples]' \
    && PIP_CONSTRAINT='' python -m pip install --no-cache-dir --no-deps --editable ./kernels \
    && python -m pip list --format freeze | grep -iE "$KEEP" | cmp - /tmp/keep.txt \
    && rm /tmp/keep.txt \
    && python -c "import torch, nmm_kernels, megatron_nmm.config"
