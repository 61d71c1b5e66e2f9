# The CUDA stack of requirements/gpu.lock.txt, for every node of a cluster; jobs bring the project.
#   docker build --file docker/gpu.Dockerfile --tag balanced-aggregation:gpu .

# The cuda-toolkit of the lock, which torch requires.
FROM nvidia/cuda:13.0.2-devel-ubuntu24.04

# python3.12-dev: Triton compiles against it. git: says which commit ran. wget: KubeRay's probes.
# ibverbs: NCCL reaches InfiniBand through them, and would fall back to TCP.
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        g++ git ibverbs-providers libibverbs1 python3.12-dev python3.12-venv wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --shell /bin/bash --uid 10001 runner \
    && python3.12 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH

COPY requirements/gpu.lock.txt requirements/flash-attn.txt /opt/requirements/
RUN pip install --no-cache-dir -r /opt/requirements/gpu.lock.txt

# A100 and H100. Each job takes up to 9 GB; without MAX_JOBS the build counts cores and memory.
ARG FLASH_ATTN_CUDA_ARCHS="80;90"
ARG MAX_JOBS
# Forced: flash-attn would take a released wheel of CUDA 12 for any torch, where there is one.
RUN FLASH_ATTENTION_FORCE_BUILD=TRUE \
    pip install --no-cache-dir --no-build-isolation -r /opt/requirements/flash-attn.txt

# By number, or Kubernetes cannot tell that it is not root.
USER 10001
WORKDIR /tmp
CMD ["/bin/bash"]
