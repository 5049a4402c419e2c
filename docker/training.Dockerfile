# Training on the CPU. Build from the top of the repository:
#   docker build -f docker/training.Dockerfile -t draem-inspect:training .
# Photos and results are mounted:
#   docker run --rm --shm-size 1g -v PHOTOS:/data:ro -v MODELS:/models -v RUNS:/runs draem-inspect:training \
#     train --data /data --recipe NAME --models /models --run /runs/NAME
# For NVIDIA GPUs give a wheel of torch with CUDA: --build-arg TORCH=torch==2.13.0+cu130 and its index with PIP_EXTRA_INDEX_URL.
ARG PYTHON_IMAGE=python:3.13-slim-trixie

FROM ${PYTHON_IMAGE}
ARG REVISION=unknown
ARG TORCH=torch==2.13.0
ARG PIP_EXTRA_INDEX_URL=
LABEL org.opencontainers.image.title="draem-inspect training" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY service service
COPY training training
RUN --mount=type=cache,target=/root/.cache/pip \
    sed -i "s/^torch==.*/${TORCH}/" constraints.txt \
    && pip install --constraint constraints.txt '.[cpu,training]' \
    && useradd --uid 10001 --user-group --create-home --shell /usr/sbin/nologin inspect \
    && install --directory --owner=inspect --group=inspect /models /runs
WORKDIR /runs
USER 10001:10001
ENTRYPOINT ["python", "-m", "training"]
CMD ["--help"]
