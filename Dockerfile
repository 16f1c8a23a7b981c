# One image for every part: worker, relay, beat, migrate and Flower differ only in their command.

FROM python:3.12.12-slim AS python
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore

FROM python AS build
WORKDIR /build
# The build backend is pinned with everything else that a developer has; this stage is thrown away.
COPY requirements.lock ./
RUN pip install --require-hashes --requirement requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN python -m hatchling build --target wheel --directory dist

FROM python
# Logs leave line by line, and the file system may be read-only.
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
COPY requirements-runtime.lock /opt/
RUN pip install --require-hashes --requirement /opt/requirements-runtime.lock
RUN --mount=type=bind,from=build,source=/build/dist,target=/dist \
    pip install --no-deps /dist/*.whl \
    && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin card-worker \
    && install --directory --owner card-worker --mode 700 /files
# By number, so that an orchestrator can tell that it isn't root.
USER 10001
ENTRYPOINT ["card-worker"]
CMD ["--help"]
