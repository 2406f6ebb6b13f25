# The whole engine without a GPU: the service, the worker, Prefect's server and Ray nodes all run this one image, so that
# Python, Ray and Prefect have one version everywhere.
#
#   docker build -f infra/images/cpu.Dockerfile -t data-engine:cpu .
#   docker build -f infra/images/cpu.Dockerfile -t data-engine:cpu --build-arg TORCH_INDEX=URL .
#
# TORCH_INDEX names the index of PyTorch's wheels for CPUs; without it the image carries CUDA, some gigabytes, unused.
FROM python:3.11-slim AS build
ARG TORCH_INDEX=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/data-engine
COPY constraints.txt ./
RUN if [ -n "$TORCH_INDEX" ]; then \
      version="$(sed -n 's/^torch==//p' constraints.txt)"; \
      /opt/data-engine/bin/pip install --index-url "$TORCH_INDEX" "torch==$version"; \
    fi
COPY pyproject.toml README.md ./
COPY data_engine data_engine
COPY scorers scorers
COPY storage storage
COPY flows flows
COPY api api
RUN /opt/data-engine/bin/pip install --constraint constraints.txt ".[bags,hub,vision]"

FROM python:3.11-slim
RUN groupadd --gid 10001 engine \
 && useradd --uid 10001 --gid 10001 --home-dir /home/engine --create-home engine \
 && mkdir -p /var/cache/data-engine /lake \
 && chown engine:engine /var/cache/data-engine /lake
COPY --from=build /opt/data-engine /opt/data-engine
# caches lie outside the home, so that a read-only root needs two writable folders: this one and /tmp
ENV PATH=/opt/data-engine/bin:$PATH \
    PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 \
    XDG_CACHE_HOME=/var/cache/data-engine \
    DATA_ENGINE_CACHE=/var/cache/data-engine/files \
    PREFECT_HOME=/var/cache/data-engine/prefect \
    MPLCONFIGDIR=/tmp/matplotlib \
    RAY_USAGE_STATS_ENABLED=0 DO_NOT_TRACK=1
WORKDIR /home/engine
USER 10001:10001
EXPOSE 8321
ENTRYPOINT ["data-engine"]
CMD ["serve", "--host", "0.0.0.0"]
