# Plainloop in a container (docs/deploying.md).
#   a finished run behind HTTP: docker build -t plainloop .
#   training, and all else:     docker build --target train --build-arg EXTRAS=offline,lora -t plainloop-train .
FROM python:3.11-slim AS base

# torch for processors; for GPUs build with --build-arg TORCH_INDEX=https://pypi.org/simple
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# extras of pyproject.toml: serving ner and seq2seq needs theirs, --build-arg EXTRAS=serve,ner
ARG EXTRAS=serve

WORKDIR /app
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
COPY constraints.txt ./
RUN pip install -c constraints.txt --extra-index-url "$TORCH_INDEX" torch
COPY pyproject.toml hatch_build.py plainloop.pth README.md LICENSE run.py ./
COPY bench ./bench
COPY engine ./engine
COPY plainloop ./plainloop
COPY tasks ./tasks
RUN pip install -c constraints.txt --extra-index-url "$TORCH_INDEX" ".[$EXTRAS]"

FROM base AS train
RUN useradd --create-home train && mkdir /work && chown train /work
USER train
WORKDIR /work
ENTRYPOINT ["plainloop"]
CMD ["--help"]

FROM base AS serve
ENV HF_HUB_OFFLINE=1
RUN useradd --create-home serve
USER serve
WORKDIR /home/serve
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health/ready')"]
ENTRYPOINT ["plainloop", "serve"]
CMD ["/model", "--host", "0.0.0.0"]
