# The server, with the embedded runtime and the libraries of one image inside. docs/deploy.md says how to run it.
#
#   BASE_IMAGE  a Debian or Ubuntu whose python3 is 3.11 or newer, installed or in its archive; pin it by digest
#   IMAGE       the set of libraries to build in
#
# Where a proxy signs with a certificate of its own, put the CA bundle beside this file as ca-bundle.crt; it is for the
# build alone and does not reach the result.
#
# The stages `base` and `build` are those of images/python/Dockerfile to the letter, so that whoever builds both installs
# the libraries once.
ARG BASE_IMAGE=debian:bookworm-slim

# The interpreter, and nothing that gives rights or that a package manager would come back to. Its list of what is
# installed stays, for those who look an image over for known holes.
FROM ${BASE_IMAGE} AS base
RUN if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
        apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3; \
    fi && \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/lib/dpkg/*-old /var/log/* /root/.cache && \
    find / -xdev -perm /6000 -exec chmod ug-s {} +

FROM base AS build
ARG IMAGE=python
WORKDIR /build
RUN if ! python3 -c 'import ensurepip' 2>/dev/null || [ ! -e /etc/ssl/certs/ca-certificates.crt ]; then \
        apt-get update && \
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates python3-venv; \
    fi
# The lock is here already because the pattern of an optional file must not be alone.
COPY images/${IMAGE}/requirements.lock ca-bundle.cr[t] images/${IMAGE}/
RUN if [ -f "images/${IMAGE}/ca-bundle.crt" ]; then \
        cat "images/${IMAGE}/ca-bundle.crt" >>/etc/ssl/certs/ca-certificates.crt; \
    fi
# What pip and uv trust is otherwise a list of their own.
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt UV_NO_CACHE=1
RUN python3 -m venv /opt/build && /opt/build/bin/pip install --no-cache-dir --disable-pip-version-check 'uv>=0.5'
COPY images/${IMAGE}/preload.py images/${IMAGE}/fontcache.p[y] images/${IMAGE}/
# Without __init__.py: building an image takes no more of ours than these three.
COPY sandbox/errors.py sandbox/image.py sandbox/
COPY sandbox/guest/packages.py sandbox/guest/
RUN PYTHONUNBUFFERED=1 /opt/build/bin/python -c \
        "import pathlib, sandbox.image as image; image.build('${IMAGE}', pathlib.Path('/opt/libraries'), print)"

FROM build AS server
COPY pyproject.toml README.md LICENSE ./
COPY sandbox sandbox
COPY images images
RUN /opt/build/bin/uv venv --quiet --no-project --python "$(command -v python3)" /opt/sandbox && \
    /opt/build/bin/uv pip install --quiet --compile-bytecode --python /opt/sandbox/bin/python \
        '.[docker,mcp,models,otel,postgresql]'

FROM base
ARG IMAGE=python
RUN if [ ! -e /etc/ssl/certs/ca-certificates.crt ]; then \
        apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates && \
        rm -rf /var/lib/apt/lists/*; \
    fi
# The large layer first: a new release of the server alone does not change it.
COPY --from=build /opt/libraries /opt/libraries
COPY --from=server /opt/sandbox /opt/sandbox
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
