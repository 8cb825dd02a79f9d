# CPU image:   docker build -t classifier-training .
# CUDA image:  docker build -t classifier-training --build-arg CUDA=12.0 .

FROM ghcr.io/prefix-dev/pixi:0.72.2-bookworm-slim AS build
# Stands in for the driver that no build machine has; empty chooses the CPU packages.
ARG CUDA=""
ENV CONDA_OVERRIDE_CUDA=${CUDA}
WORKDIR /app
# The lock is copied when there is one. The sources come later, so that changing them leaves this layer as it is.
COPY pyproject.toml pixi.toml pixi.loc[k] README.md LICENSE ./
COPY src/classifier_training/__init__.py src/classifier_training/__init__.py
RUN pixi install
COPY src src
RUN pixi run python -m compileall -q src .pixi/envs/default/lib/python3*/site-packages || true

FROM debian:bookworm-slim
# The cache is writable for every user: compose.yaml runs as the one whose folder it is started in.
RUN useradd --uid 1000 --home-dir /cache trainer && mkdir -m 1777 /cache && mkdir /work && chown trainer /work
COPY --from=build /app /app
ENV PATH=/app/.pixi/envs/default/bin:$PATH \
    HOME=/cache \
    USER=trainer \
    PYTHONUNBUFFERED=1
USER 1000
WORKDIR /work
ENTRYPOINT ["classifier-training"]
CMD ["train"]
