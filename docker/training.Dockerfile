# Training, on an NVIDIA GPU where there is one. Build from the top of the repository:
#   docker build -f docker/training.Dockerfile -t draem-inspect:training .
# Photos and results are mounted:
#   docker run --rm --shm-size 1g -v PHOTOS:/data:ro -v MODELS:/models -v RUNS:/runs draem-inspect:training \
#     train --data /data --recipe NAME --models /models --run /runs/NAME
# PyPI's torch brings gigabytes of CUDA 13 along. For CPUs alone: --build-arg TORCH=torch==2.13.0+cpu and PyTorch's index of
# such wheels with PIP_EXTRA_INDEX_URL. What is inside is listed in /opt/draem-inspect/sbom.cdx.json (CycloneDX).
ARG PYTHON_IMAGE=python:3.13-slim-trixie

FROM ${PYTHON_IMAGE}
ARG REVISION=unknown
ARG TORCH=torch==2.13.0
ARG PIP_EXTRA_INDEX_URL=
LABEL org.opencontainers.image.title="draem-inspect training" \
      org.opencontainers.image.description="Training of DRÆM for draem-inspect" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}"
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY service service
COPY training training
RUN --mount=type=cache,target=/root/.cache/pip \
    sed -i "s/^torch==.*/${TORCH}/" constraints.txt \
    && python -m venv /opt/cyclonedx \
    && /opt/cyclonedx/bin/pip install --constraint constraints.txt cyclonedx-bom \
    && python -m venv /opt/draem-inspect \
    && /opt/draem-inspect/bin/pip install --constraint constraints.txt '.[cpu,training]' \
    && rm -rf /opt/draem-inspect/lib/python3*/site-packages/pip* \
    && /opt/cyclonedx/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
       --output-file /opt/draem-inspect/sbom.cdx.json /opt/draem-inspect \
    && rm -rf /opt/cyclonedx \
    && useradd --uid 10001 --user-group --create-home --shell /usr/sbin/nologin inspect \
    && install --directory --owner=inspect --group=inspect /models /runs
ENV PATH=/opt/draem-inspect/bin:$PATH ORT_DISABLE_TELEMETRY=1
WORKDIR /runs
USER 10001:10001
ENTRYPOINT ["python", "-m", "training"]
CMD ["--help"]
