# A finished run behind HTTP: docker build -t plainloop . (docs/deploying.md)
FROM python:3.11-slim

# torch for processors; for GPUs build with --build-arg TORCH_INDEX=https://pypi.org/simple
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# ner and seq2seq need the extra of their name: --build-arg EXTRAS=serve,ner
ARG EXTRAS=serve

WORKDIR /app
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN pip install -c constraints.txt --extra-index-url "$TORCH_INDEX" torch && pip install -c constraints.txt ".[$EXTRAS]"
COPY run.py ./
COPY engine ./engine
COPY tasks ./tasks

RUN useradd --create-home serve
USER serve
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health/ready')"]
ENTRYPOINT ["python", "run.py", "serve"]
CMD ["/model", "--host", "0.0.0.0"]
