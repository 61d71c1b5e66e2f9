# The CPU demo with its pinned stack.
#   docker build --file docker/cpu.Dockerfile --tag balanced-aggregation:cpu .
#   docker run --rm --init --shm-size 2g balanced-aggregation:cpu
FROM python:3.11-slim-bookworm

# g++: vLLM compiles a kernel at its first request. libnuma1: vLLM links it. git: says which commit
# ran, and is asked without a repository too.
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        g++ git libnuma1 make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --shell /bin/bash --uid 10001 runner \
    && install --directory --owner 10001 --group 10001 /project
USER 10001
WORKDIR /project

# Before the code, so that a change of it installs nothing again.
COPY --chown=10001:10001 requirements/cpu.txt requirements/dev.txt requirements/
COPY --chown=10001:10001 scripts/install.sh scripts/
RUN PIP_NO_CACHE_DIR=1 scripts/install.sh

COPY --chown=10001:10001 . .
# What git would say of the folder that was copied: --build-arg RECIPE_COMMIT=...
ARG RECIPE_COMMIT
ENV RECIPE_COMMIT=$RECIPE_COMMIT
# Newer than the copied requirements, or make would install again.
RUN touch .venv/.installed && mkdir outputs
CMD ["make", "demo"]
