# The server, with the embedded runtime and the libraries of one image inside. docs/deploy.md says how to run it.
#
#   BASE_IMAGE  a Debian or Ubuntu whose python3 is 3.11 or newer, installed or in its archive; pin it by digest
#   IMAGE       the set of libraries to build in
#
# Where a proxy signs with a certificate of its own, put the CA bundle beside this file as ca-bundle.crt; it is for the
# build alone and does not reach the result.
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${BASE_IMAGE} AS base
RUN python3 -c 'import ensurepip' 2>/dev/null || { apt-get update && \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates python3 python3-venv && \
    rm -rf /var/lib/apt/lists/*; }

FROM base AS build
ARG IMAGE=python
WORKDIR /build
COPY pyproject.toml README.md LICENSE ca-bundle.cr[t] ./
COPY sandbox sandbox
COPY images images
RUN if [ -f ca-bundle.crt ]; then cat ca-bundle.crt >>/etc/ssl/certs/ca-certificates.crt; fi
# What pip and uv trust is otherwise a list of their own.
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
RUN python3 -m venv /opt/sandbox && \
    /opt/sandbox/bin/pip install --no-cache-dir --disable-pip-version-check '.[docker,mcp,models,otel,postgresql]' && \
    /opt/sandbox/bin/pip uninstall --yes pip setuptools
RUN SANDBOX_IMAGES_DIR=/opt/libraries /opt/sandbox/bin/sandbox image build "${IMAGE}"

FROM base
ARG IMAGE=python
# The large layer first: a new release of the server alone does not change it.
COPY --from=build /opt/libraries /opt/libraries
COPY --from=build /opt/sandbox /opt/sandbox
COPY deploy/entrypoint /usr/local/bin/entrypoint
ENV PATH=/opt/sandbox/bin:$PATH PYTHONDONTWRITEBYTECODE=1 \
    SANDBOX_DATA_DIR=/var/lib/sandbox SANDBOX_IMAGES_DIR=/opt/libraries SANDBOX_IMAGE=${IMAGE} SANDBOX_HOST=0.0.0.0
VOLUME /var/lib/sandbox
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python3", "-I", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + os.environ.get('SANDBOX_PORT', '8000') + '/health', timeout=4)"]
ENTRYPOINT ["entrypoint"]
CMD ["serve"]
