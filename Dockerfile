# raykd in a container, for processors; for GPUs `--target cuda`, run with the NVIDIA container toolkit:
#     docker build --tag raykd .
#     docker run --rm --volume "$PWD:/home/raykd/here" --workdir /home/raykd/here raykd train dafl_digits
# torch's default build for Linux brings CUDA along, some GB. TORCH_INDEX names an index of other builds, such as torch's
# own for processors. What is mounted must be writable for UID, the user of the container.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY raykd raykd
COPY clusters clusters
COPY search_spaces search_spaces
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim AS installed
ARG TORCH_INDEX=""
ARG EXTRAS=ray,export,tensorboard
ARG UID=1000
# torch.compile calls a compiler.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
COPY constraints.txt /tmp/constraints.txt
RUN python -m pip install --no-cache-dir --constraint /tmp/constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch torchvision
COPY --from=wheel /wheels /wheels
RUN python -m pip install --no-cache-dir --constraint /tmp/constraints.txt "$(ls /wheels/raykd-*.whl)[${EXTRAS}]" \
    && rm -rf /wheels /tmp/constraints.txt \
    && useradd --create-home --uid ${UID} raykd
USER raykd
WORKDIR /home/raykd
HEALTHCHECK NONE
ENTRYPOINT ["raykd"]
CMD ["--help"]

FROM installed AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

# The last stage is what is built unless --target names another.
FROM installed AS cpu
