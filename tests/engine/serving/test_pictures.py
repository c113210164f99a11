"""Pictures over HTTP: as base64 or as they are, within limits; no name is opened, and what is no picture is one line."""

from __future__ import annotations

import base64
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from bench.toys import tiny
from tasks.captioning import pictures
from tasks.samples import shapes
from tests.toys.served import served

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}


def png(colour=(200, 30, 40), size=(20, 12), kind="PNG") -> bytes:
    stream = BytesIO()
    Image.new("RGB", size, colour).save(stream, kind)
    return stream.getvalue()


def in_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    import torch

    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    labels = {"id2label": {0: "cat", 1: "dog"}, "label2id": {"cat": 0, "dog": 1}}
    ViTForImageClassification(ViTConfig(**SIZES, image_size=16, patch_size=4, **labels)).save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def toy(model):
    with served(model, task="image-classification") as found:
        yield found


def expected(service, *contents):
    images = [Image.open(BytesIO(content)).convert("RGB") for content in contents]
    return list(service.task.predict(service.batcher.model, images, service.batcher.layout))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_the_answer_is_that_of_predict_whichever_way_it_comes(toy, kind):
    client, service = toy
    content = png(kind=kind)
    [wanted] = expected(service, content)
    ways = [
        client.post("/predict", json={"inputs": in_base64(content)}),
        client.post("/predict", json={"inputs": {"image": f"data:image/png;base64,{in_base64(content)}"}}),
        client.post("/predict", content=content, headers={"Content-Type": f"image/{kind.lower()}"}),
    ]
    for answer in ways:
        assert answer.status_code == 200, answer.text
        [found] = answer.json()["predictions"]
        assert found["label"] == wanted["label"] and found["probabilities"] == pytest.approx(wanted["probabilities"], abs=1e-6)


def test_many_pictures_in_one_request(toy):
    client, service = toy
    contents = [png((i * 20, 0, 255 - i * 20)) for i in range(9)]
    found = client.post("/predict", json={"inputs": [in_base64(each) for each in contents]}).json()["predictions"]
    wanted = expected(service, *contents)
    assert [each["label"] for each in found] == [each["label"] for each in wanted]
    assert [each["score"] for each in found] == pytest.approx([each["score"] for each in wanted], abs=1e-6)


def chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def bomb(side: int) -> bytes:
    """A PNG of so many points a side in a few kB: its rows are zeros."""
    head = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    packer = zlib.compressobj(9)
    rows = packer.compress(bytes((side // 8 + 1) * min(side, 200))) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_refused_before_it_is_decoded(toy, monkeypatch):
    client, _ = toy
    content = bomb(10_000)
    assert len(content) < 1 << 20 and pictures.MAX_PIXELS < 10_000**2
    decoded = []
    monkeypatch.setattr(pictures, "in_rgb", lambda picture: decoded.append(picture) or picture)
    answer = client.post("/predict", json={"inputs": in_base64(content)})
    assert answer.status_code == 422 and "10000 x 10000 pixels" in answer.json()["error"] and not decoded
    assert client.get("/health").status_code == 200


def test_pictures_are_decoded_one_at_a_time(toy, monkeypatch):
    """Or sixteen bombs within the limit would be in memory together."""
    import tasks.image

    client, _ = toy
    alive, most = [], []

    class Held:
        def __init__(self, picture):
            self.picture = picture
            alive.append(self)

    monkeypatch.setattr(tasks.image, "open_picture", lambda *given, opened=tasks.image.open_picture: Held(opened(*given)))

    def pixels(processor, held, pixels=tasks.image.pixels):
        most.append(len(alive))
        alive.remove(held)
        return pixels(processor, held.picture)

    monkeypatch.setattr(tasks.image, "pixels", pixels)
    assert client.post("/predict", json={"inputs": [in_base64(png())] * 6}).status_code == 200 and most == [1] * 6


WRONG = [
    ("/etc/hostname", 422, "a picture in base64"), ("https://localhost/a.png", 422, "a picture in base64"), ("", 422, "a picture in base64"),
    ("file:///etc/hostname", 422, "a picture in base64"), ("!!!!", 422, "a picture in base64"), (7, 422, "a picture in base64"),
    ({"path": "/etc/hostname"}, 422, "must have image"), ({"image": {"path": "/etc/hostname"}}, 422, "a picture in base64"),
    ({"image": {"bytes": "aGk="}}, 422, "a picture in base64"), (in_base64(b"no picture"), 422, "not a picture that can be read"),
    (in_base64(b"%!PS-Adobe-3.0 EPSF-3.0"), 422, "not a picture that can be read"), (in_base64(png()[:40]), 422, "not a picture that can be read"),
]  # fmt: skip


@pytest.mark.parametrize(("inputs", "status", "words"), WRONG, ids=range(len(WRONG)))
def test_what_is_no_picture_is_one_line_and_no_file_of_this_machine_is_opened(toy, monkeypatch, inputs, status, words):
    monkeypatch.setattr(pictures, "read_file", lambda *given: pytest.fail("a file was opened"))
    monkeypatch.setattr(pictures, "download", lambda *given: pytest.fail("an address was asked"))
    answer = toy[0].post("/predict", json={"inputs": inputs})
    assert answer.status_code == status and words in answer.json()["error"] and "\n" not in answer.json()["error"]


def test_other_bodies(toy, project):
    client, _ = toy
    for content, kind, status, words in (
        (b"", "image/png", 422, "the body is empty"), (b"no picture", "image/png", 422, "not a picture that can be read"),
        (png(), "multipart/form-data", 415, "or a picture, with Content-Type: image/jpeg"), (png(), "text/plain", 415, "must be JSON"),
        (b"x" * (2 << 20), "image/png", 413, "at most 1048576 bytes"),
    ):  # fmt: skip
        answer = client.post("/predict", content=content, headers={"Content-Type": kind})
        assert answer.status_code == status and words in answer.json()["error"]
    with served(project / "run") as (text, _):
        answer = text.post("/predict", content=png(), headers={"Content-Type": "image/png"})
        assert answer.status_code == 415 and "picture" not in answer.json()["error"], "a model of texts takes none"


def test_a_bad_picture_does_not_fail_those_beside_it(toy):
    import threading

    client, service = toy
    gate, predict = threading.Event(), service.task.predict
    service.task.predict = lambda *given: gate.wait(10) and predict(*given)
    found = {}
    ask = {"first": png(), "good": png(), "bad": b"no picture"}
    threads = [threading.Thread(target=lambda name=name, content=content: found.update(
        {name: client.post("/predict", content=content, headers={"Content-Type": "image/png"})})) for name, content in ask.items()]  # fmt: skip
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join()
    service.task.predict = predict
    assert {name: answer.status_code for name, answer in found.items()} == {"first": 200, "good": 200, "bad": 422}


def test_the_pages_have_a_field_for_a_picture(toy):
    client, service = toy
    page = client.get("/").text
    assert '<input id="in-1" data-column="image" type="file" accept="image/*">' in page and "<textarea" not in page
    assert "--data-binary @picture.jpg" in page
    post = client.get("/openapi.json").json()["paths"]["/predict"]["post"]
    content = post["requestBody"]["content"]
    assert content["image/*"]["schema"]["format"] == "binary"
    item = content["application/json"]["schema"]["properties"]["inputs"]["anyOf"][0]["anyOf"][0]
    assert item["contentEncoding"] == "base64"
    example = content["application/json"]["examples"]["1"]["value"]
    assert client.post("/predict", json=example).status_code == 200 and client.get("/docs").status_code == 200
    assert "tokens of an input" not in post["description"] and np.isfinite(service.task.predict_rows)


def test_captions(tmp_path):
    shapes.save_small_captioner(tmp_path, tiny.WORDS)
    with served(tmp_path, task="captioning") as (client, service):
        content = png()
        [wanted] = expected(service, content)
        answer = client.post("/predict", json={"inputs": [in_base64(content)]})
        assert answer.status_code == 200 and answer.json()["predictions"] == [wanted] and "caption" in wanted
