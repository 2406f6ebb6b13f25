# The same with CUDA, for scorers, encoders and Ray nodes on NVIDIA GPUs.
#
#   docker build -f infra/images/gpu.Dockerfile -t data-engine:gpu .
#   docker run --gpus all data-engine:gpu doctor
#
# PyTorch's wheels bring the CUDA that they were built with, and the container runtime mounts the host's driver: so it
# stands on the same Python as the CPU image, which Ray wants of all nodes of a cluster, and not on a CUDA image.
FROM python:3.11-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/data-engine
COPY constraints.txt pyproject.toml README.md ./
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
ENV PATH=/opt/data-engine/bin:$PATH \
    PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 \
    XDG_CACHE_HOME=/var/cache/data-engine \
    DATA_ENGINE_CACHE=/var/cache/data-engine/files \
    PREFECT_HOME=/var/cache/data-engine/prefect \
    MPLCONFIGDIR=/tmp/matplotlib \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,video,utility \
    RAY_USAGE_STATS_ENABLED=0 DO_NOT_TRACK=1
WORKDIR /home/engine
USER 10001:10001
EXPOSE 8321
ENTRYPOINT ["data-engine"]
CMD ["serve", "--host", "0.0.0.0"]
