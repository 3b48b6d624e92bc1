# syntax=docker/dockerfile:1
# Build:  docker build -t reconciler .
# Run:    docker run --init --read-only --tmpfs /tmp -v state:/var/lib/reconciler -v ./reconciler.yaml:/etc/reconciler.yaml:ro reconciler
# What `make deploy` needs comes on top: FROM reconciler, USER 0, RUN apt-get install …, USER 10001

FROM python:3.13-slim-trixie AS build
WORKDIR /src
RUN python -m venv /opt/reconciler
# The dependencies first: this layer changes only with the lock.
COPY requirements/run.txt requirements/build.txt requirements/
RUN /opt/reconciler/bin/pip install --no-cache-dir --require-hashes -r requirements/run.txt \
 && python -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --require-hashes -r requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY reconciler reconciler
COPY deployments deployments
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /dist . \
 && /opt/reconciler/bin/pip install --no-cache-dir --no-deps --no-index /dist/*.whl

FROM python:3.13-slim-trixie
# Versions of Debian's packages are not pinned: a rebuild is how their security fixes come in.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends git gpgv make openssh-client tini \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --user-group --home-dir /var/lib/reconciler --shell /usr/sbin/nologin reconciler \
 && install -d -o 10001 -g 10001 -m 0700 /var/lib/reconciler
COPY --from=build /opt/reconciler /opt/reconciler
ENV PATH=/opt/reconciler/bin:$PATH PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
VOLUME /var/lib/reconciler
EXPOSE 8080
LABEL org.opencontainers.image.title="reconciler" \
      org.opencontainers.image.description="A GitOps poller and reconciler daemon for everything that is not a Kubernetes object" \
      org.opencontainers.image.licenses="Apache-2.0"
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["reconciler", "healthcheck", "--config", "/etc/reconciler.yaml"]
# tini as PID 1 reaps what a killed deploy leaves behind.
ENTRYPOINT ["/usr/bin/tini", "--", "reconciler"]
CMD ["run", "--config", "/etc/reconciler.yaml"]
