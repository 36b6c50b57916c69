"""The repository for Triton; tests/edge/backends/test_kserve_on_triton.py has a real server load it."""

import dataclasses
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format

from build_engines.errors import EngineError
from build_engines.triton_repository import write_triton_repository
from edge.bundle import Bundle, embedded_bundle, file_sha256
from edge.engine_files import EngineFile, engines_of
from edge.manifest import GateResult
from tests.edge.backends.engines import with_engines


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.load(embedded_bundle())


@pytest.fixture(scope="module")
def plans(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> list[EngineFile]:
    equipped = with_engines(bundle, tmp_path_factory.mktemp("plans") / "bundle")
    return engines_of(equipped.path, "tensorrt")


@pytest.fixture(scope="module")
def schema() -> Any:
    """NVIDIA's own description of config.pbtxt, without the package around it, which needs gRPC."""
    package = importlib.util.find_spec("tritonclient")
    assert package is not None
    assert package.submodule_search_locations is not None
    file = Path(package.submodule_search_locations[0], "grpc/model_config_pb2.py")
    spec = importlib.util.spec_from_file_location("model_config_pb2", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def config_of(schema: Any, repository: Path, model: str) -> Any:
    text = (repository / model / "config.pbtxt").read_text("utf-8")
    return text_format.Parse(text, schema.ModelConfig())


def changed(plan: EngineFile, **record: Any) -> EngineFile:
    return dataclasses.replace(plan, record=plan.record.model_copy(update=record))


@pytest.mark.parametrize("precision", ["f16", "f32"])
def test_onnx(bundle: Bundle, schema: Any, tmp_path: Path, precision: Any) -> None:
    write_triton_repository(bundle, tmp_path / "models", precision=precision)
    limits = {"detector": 4, "classifier": 16}
    specs = {"detector": bundle.detector, "classifier": bundle.classifier}
    for name, limit in limits.items():
        config, spec = config_of(schema, tmp_path / "models", name), specs[name]
        assert spec is not None
        graph = spec.graph.fp16 if precision == "f16" else spec.graph.fp32
        sha256 = file_sha256(tmp_path / "models" / name / "1/model.onnx")
        assert sha256 == bundle.manifest.sha256[graph]
        assert (config.name, config.platform) == (name, "onnxruntime_onnx")
        assert config.max_batch_size == limit
        assert list(config.dynamic_batching.preferred_batch_size)[-1] == limit
        assert {key: value.string_value for key, value in config.parameters.items()} == {
            "cytologia_bundle": bundle.id,
            "cytologia_precision": precision,
            "cytologia_sha256": sha256,
        }
        (only,) = config.input
        assert {one.batch_size for one in config.model_warmup} >= {1, limit}
        for one in config.model_warmup:
            assert list(one.inputs) == [only.name]
            assert (one.inputs[only.name].data_type, one.inputs[only.name].zero_data) == (
                only.data_type,
                True,
            )
            assert list(one.inputs[only.name].dims) == list(only.dims)
    detector = config_of(schema, tmp_path / "models", "detector")
    assert (detector.input[0].name, list(detector.input[0].dims)) == ("tiles", [416, 416, 3])
    assert detector.input[0].data_type == schema.TYPE_UINT8
    assert [(one.name, one.data_type, list(one.dims)) for one in detector.output] == [
        ("boxes", schema.TYPE_FP32, [bundle.detector.max_detections, 4]),
        ("scores", schema.TYPE_FP32, [bundle.detector.max_detections]),
        ("labels", schema.TYPE_INT32, [bundle.detector.max_detections]),
    ]


def test_the_graphs_are_what_the_files_hold(bundle: Bundle, schema: Any, tmp_path: Path) -> None:
    import onnxruntime as ort

    write_triton_repository(bundle, tmp_path / "models")
    types = {"tensor(float)": schema.TYPE_FP32, "tensor(int32)": schema.TYPE_INT32}
    types["tensor(uint8)"] = schema.TYPE_UINT8
    for name in ("detector", "classifier"):
        config = config_of(schema, tmp_path / "models", name)
        session = ort.InferenceSession(tmp_path / "models" / name / "1/model.onnx")
        for told, real in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
            assert [(one.name, one.data_type, list(one.dims)) for one in told] == [
                (one.name, types[one.type], one.shape[1:]) for one in real
            ]


def test_plans(bundle: Bundle, plans: list[EngineFile], schema: Any, tmp_path: Path) -> None:
    write_triton_repository(bundle, tmp_path / "models", plans=plans)
    models = sorted(path.name for path in (tmp_path / "models").iterdir() if path.is_dir())
    assert models == ["classifier", "classifier-b16", "classifier-b4", "detector", "detector-b4"]
    for name, batch in (("classifier", 1), ("classifier-b4", 4), ("classifier-b16", 16)):
        config = config_of(schema, tmp_path / "models", name)
        assert (config.name, config.platform, config.max_batch_size) == (name, "tensorrt_plan", 0)
        assert list(config.input[0].dims) == [batch, 192, 192, 3]
        assert list(config.output[0].dims) == [batch, 15]
        assert not config.HasField("dynamic_batching")
        assert [one.batch_size for one in config.model_warmup] == [1]
        assert list(config.model_warmup[0].inputs["crops"].dims) == [batch, 192, 192, 3]
        assert config.instance_group[0].kind == schema.ModelInstanceGroup.KIND_GPU
        assert config.parameters["cytologia_batches"].string_value == "1 4 16"
        sha256 = file_sha256(tmp_path / "models" / name / "1/model.plan")
        assert config.parameters["cytologia_sha256"].string_value == sha256


def test_a_graph_without_plans_is_served_as_onnx(
    bundle: Bundle, plans: list[EngineFile], schema: Any, tmp_path: Path
) -> None:
    own = [plan for plan in plans if plan.record.graph == bundle.detector.graph.fp16]
    write_triton_repository(bundle, tmp_path / "models", plans=own)
    assert config_of(schema, tmp_path / "models", "detector").platform == "tensorrt_plan"
    assert config_of(schema, tmp_path / "models", "classifier").platform == "onnxruntime_onnx"


_FAILED = GateResult(
    backend="tensorrt", precision="f16", passed=False, images="", box_px=9, score=1, probability=1
)


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ({"target": "tensorrt_rtx"}, "is for tensorrt_rtx, and Triton takes tensorrt"),
        ({"onnx_sha256": "0" * 64}, "is of the ONNX 000000000000, and the bundle has "),
        ({"inputs": {}}, "has .*, and the bundle's graph "),
        ({"gate": _FAILED}, "failed its accuracy gate"),
    ],
)
def test_a_plan_that_does_not_fit(
    bundle: Bundle, plans: list[EngineFile], tmp_path: Path, record: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(EngineError, match=sentence):
        write_triton_repository(bundle, tmp_path / "models", plans=[changed(plans[0], **record)])
    assert not any(tmp_path.iterdir())


def test_two_plans_for_one_batch(bundle: Bundle, plans: list[EngineFile], tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"one for each batch, of one card"):
        write_triton_repository(bundle, tmp_path / "models", plans=[*plans, plans[0]])


def test_it_replaces_only_what_it_wrote(bundle: Bundle, tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_triton_repository(bundle, models)
    (models / "detector/left-over").touch()
    write_triton_repository(bundle, models)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models"]
    assert not (models / "detector/left-over").exists()
    assert models.stat().st_mode & 0o777 == 0o755
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter1.tex").touch()
    with pytest.raises(EngineError, match="thesis is not empty and no Triton repository"):
        write_triton_repository(bundle, other)
    assert (other / "chapter1.tex").exists()


def test_a_damaged_plan_leaves_the_old_repository(
    bundle: Bundle, plans: list[EngineFile], tmp_path: Path
) -> None:
    models = tmp_path / "models"
    write_triton_repository(bundle, models)
    before = sorted(models.rglob("*"))
    with pytest.raises(EngineError, match=r"has sha256 .* and should have 000000000000"):
        write_triton_repository(bundle, models, plans=[changed(plans[0], plan_sha256="0" * 64)])
    assert sorted(models.rglob("*")) == before
    assert list(tmp_path.iterdir()) == [models]


def test_a_full_disk_is_told_in_a_sentence(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EngineError, match=r"models cannot be written \(.*\); make room"):
        write_triton_repository(bundle, tmp_path / "file" / "models")


def test_it_needs_nothing_that_trains() -> None:
    code = "import sys, build_engines.triton_repository as _; "
    code += "print({'torch', 'onnx', 'tritonclient'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
