"""What every test process shares: eight CPU devices, quiet libraries, the folders of real data and of oracles."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

# Read once, when jax and TensorFlow are first imported, hence before any test module.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

# A first call compiles, so a deadline would measure the compiler.
settings.register_profile("xtr", deadline=None)
settings.load_profile("xtr")


def _folder(variable: str, what: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set: it names the folder of {what}")
    path = Path(value)
    if not path.is_dir():
        pytest.skip(f"{variable}={value} is not a folder: it should hold {what}")
    return path


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the official data files, or a skip that says what is missing."""
    return _folder("XTR_DATA_DIR", "the official data files")


@pytest.fixture(scope="session")
def oracles() -> Path:
    """The folder of numbers recorded from the official implementations, or a skip that says what is missing."""
    return _folder("XTR_ORACLES", "recorded reference results")


@pytest.fixture(scope="session")
def tiny_mt5() -> str:
    """Gin of an mT5 that compiles in a second or two."""
    return """
include 'models/mt5/micro.gin'
mt5.MT5Config.emb_dim = 16
mt5.MT5Config.num_heads = 2
mt5.MT5Config.head_dim = 8
mt5.MT5Config.mlp_dim = 32
mt5.MT5Config.num_encoder_layers = 1
mt5.MT5Config.num_decoder_layers = 1
"""


@pytest.fixture(scope="session")
def small_vocabularies(tmp_path_factory) -> dict[str, Path]:
    """A small vocabulary of each kind, by kind, each in a folder and under the name that Hugging Face gives it."""
    import io

    import sentencepiece

    from xtr.data import vocabulary_training

    folder = tmp_path_factory.mktemp("vocabularies")
    text = [
        "The quick brown fox jumps over the lazy dog, and seven wizards make toxic brew for the queen.",
        "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. Œuvre, déjà vu, naïve!",
        "Съешь же ещё этих мягких французских булок, да выпей чаю. الناس أحرارا متساوين في الكرامة والحقوق",
        "人人生而自由，在尊严和权利上一律平等。すべての人間は、生まれながらにして自由である。모든 인간은 자유롭다",
        "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता प्राप्त है। ทุกคนเกิดมาอิสระ 0123456789 #@(){}",
    ]
    paths = {}

    def place(kind: str, name: str, content: bytes) -> None:
        paths[kind] = folder / kind / name
        paths[kind].parent.mkdir()
        paths[kind].write_bytes(content)

    def sentencepiece_model(**options) -> bytes:
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(text * 3), model_writer=model, vocab_size=600, hard_vocab_limit=False,
            character_coverage=0.99, minloglevel=2, **options,
        )  # fmt: skip
        return model.getvalue()

    sentinels = [f"▁<extra_id_{i}>" for i in reversed(range(10))]
    t5 = sentencepiece_model(
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, byte_fallback=True, user_defined_symbols=sentinels
    )
    place("t5", "spiece.model", t5)
    place("xlmr", "sentencepiece.bpe.model", sentencepiece_model(unk_id=0, bos_id=1, eos_id=2, pad_id=-1))
    characters = sorted({c for line in text for c in line if not c.isspace() and c != "ö"})
    pieces = ["[PAD]", "[Q]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *("##" + c for c in characters)]
    place("wordpiece", "vocab.txt", "\n".join([*pieces, "The", "fox", "##ox", "##ing", "the"]).encode())

    place("bpe", "tokenizer.json", vocabulary_training.train("bpe", text, 600))
    return paths


@pytest.fixture(scope="session")
def hugging_face():
    """`hugging_face(kind, path)`: Hugging Face's tokenizer of a vocabulary file, the reference of that kind."""
    transformers = pytest.importorskip("transformers", reason="Hugging Face's tokenizers are the reference")

    def reference(kind: str, path: Path):
        if kind == "t5":
            # The form of T5's tokenizer that runs the model file itself; T5Tokenizer knows no byte pieces.
            from transformers.tokenization_utils_sentencepiece import SentencePieceBackend

            return SentencePieceBackend(vocab_file=str(path), eos_token="</s>", unk_token="<unk>", pad_token="<pad>")
        if kind == "xlmr":
            return transformers.XLMRobertaTokenizer.from_pretrained(path.parent)
        if kind == "wordpiece":
            return transformers.BertTokenizer(vocab=str(path), do_lower_case=False)
        special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
        return transformers.PreTrainedTokenizerFast(tokenizer_file=str(path), **special)

    return reference


@pytest.fixture(scope="session")
def fake_gcs(tmp_path_factory):
    """A Google Cloud Storage server on this machine: the folder whose files are the objects of the bucket 'bucket'.

    gs://bucket/a/b is the file a/b of that folder. `.server.sent` counts the bytes of objects that it has sent.
    """
    import http.server
    import json
    import threading
    import urllib.parse

    root = tmp_path_factory.mktemp("gcs") / "bucket"
    root.mkdir()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            url = urllib.parse.urlsplit(self.path)
            query = dict(urllib.parse.parse_qsl(url.query))
            _, bucket, _, name = (url.path.removeprefix("/storage/v1") + "/").split("/", 4)[1:]
            if bucket != "bucket":
                self.answer(404, b"no such bucket")
            elif not name.strip("/"):
                self.answer(200, self.listing(query))
            else:
                file = root / urllib.parse.unquote(name.rstrip("/"))
                self.answer_object(file.read_bytes() if file.is_file() else None)

        def listing(self, query):
            names = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
            end = query.get("endOffset")
            names = [n for n in names if n >= query.get("startOffset", "") and (end is None or n < end)]
            start = int(query.get("pageToken", 0))
            page = {"items": [{"name": n, "generation": "1"} for n in names[start : start + 1000]]}
            if start + 1000 < len(names):
                page["nextPageToken"] = str(start + 1000)
            return json.dumps(page).encode()

        def answer_object(self, content):
            if content is None:
                return self.answer(404, b"no such object")
            if "range" not in self.headers:
                return self.answer(200, content, counted=True)
            first, _, last = self.headers["range"].removeprefix("bytes=").partition("-")
            last = min(int(last or len(content) - 1), len(content) - 1)
            if int(first) > last:
                return self.answer(416, b"beyond the end")
            where = {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
            return self.answer(206, content[int(first) : last + 1], where, counted=True)

        def answer(self, status, body, headers=(), counted=False):
            self.server.sent += len(body) if counted else 0
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), "x-goog-generation": "1", **dict(headers)}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    class Folder(type(root)):
        server = None

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.sent = 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # TensorStore reads them when it opens its first bucket; the second keeps it from asking a real server who it is.
    os.environ["TENSORSTORE_GCS_HTTP_URL"] = f"http://127.0.0.1:{server.server_port}"
    os.environ["GCE_METADATA_ROOT"] = "127.0.0.1:1"
    folder = Folder(root)
    Folder.server = server
    yield folder
    server.shutdown()


# TensorBoard asks for this module to learn that it should do without TensorFlow, whose import takes many seconds.
_BOARD = (
    "import sys, types; sys.modules['tensorboard.compat.notf'] = types.ModuleType('notf')\n"
    "from tensorboard.main import run_main; run_main()"
)


class Board:
    """A TensorBoard server on this machine."""

    def __init__(self, logdir: Path, log: Path):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        options = ["--logdir", str(logdir), "--host", "127.0.0.1", "--port", str(port), "--load_fast", "false"]
        self.base, self.log = f"http://127.0.0.1:{port}/data/plugin", log
        with open(log, "w") as out:
            self.process = subprocess.Popen([sys.executable, "-c", _BOARD, *options], stdout=out, stderr=out)

    def raw(self, path: str, body=None, **query) -> bytes:
        """What one of its HTTP endpoints answers."""
        data = None if body is None else json.dumps(body).encode()
        url = f"{self.base}/{path}" + ("?" + urllib.parse.urlencode(query) if query else "")
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.read()

    def ask(self, path: str, body=None, **query):
        """The same, read as JSON."""
        return json.loads(self.raw(path, body, **query))

    def wait_for_runs(self, count: int) -> dict:
        """The scalar tags by run, once so many runs have some."""
        deadline = time.monotonic() + 60
        tags = {}
        while len(tags) < count:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, f"{sorted(tags)} after 60 s; log: {self.log.read_text()}"
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):  # not up yet
                tags = self.ask("scalars/tags")
            time.sleep(0.1)
        return tags


@pytest.fixture
def start_board(tmp_path_factory):
    """`start_board(logdir)`: a real TensorBoard server that shows a folder until the test ends."""
    boards = []

    def start(logdir: Path) -> Board:
        boards.append(Board(logdir, tmp_path_factory.mktemp("board") / "log.txt"))
        return boards[-1]

    yield start
    for board in boards:
        board.process.terminate()
        board.process.wait(10)
