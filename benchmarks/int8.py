"""Ways to multiply with an int8 matrix in ONNX Runtime: `python benchmarks/int8.py [ROWS COLUMNS]`, one thread.

Prints for each way the least microseconds for M rows, the relative error, and the largest change of the other rows when
one row is scaled by 100.
"""

import sys
import time
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from projtrans.inference import onnx_export as export


def session(operator: str, constants: dict[str, Any], rows: int, **settings: Any) -> onnxruntime.InferenceSession:
    """A graph of one product x [M, rows] with constants."""
    domain = "" if operator == "MatMul" else "com.microsoft"
    node = helper.make_node(operator, ["x", *constants], ["y"], domain=domain, **settings)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["M", rows])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    initial = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    versions = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(
        helper.make_graph([node], "product", [x], [y], initial), opset_imports=versions, ir_version=10
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def ways(matrix: Any) -> dict[str, onnxruntime.InferenceSession]:
    """The products, by name."""
    rows, columns = matrix.shape
    scale = np.abs(matrix).max(0) / 127
    whole = {"B": np.rint(matrix / scale).astype(np.int8), "scale": scale, "zero": np.zeros(columns, np.int8)}
    found = {
        "MatMul": session("MatMul", {"B": matrix}, rows),
        "DynamicQuantizeMatMul": session("DynamicQuantizeMatMul", whole, rows),
    }
    for block in (32, 64, 128, 256):
        export.BLOCK = block
        constants = dict(zip(("B", "scale"), export._blocks(matrix), strict=True))
        settings = {"K": rows, "N": columns, "bits": 8, "block_size": block, "accuracy_level": 4}
        found[f"MatMulNBits, blocks of {block}"] = session("MatMulNBits", constants, rows, **settings)
    return found


def least(product: onnxruntime.InferenceSession, x: Any) -> float:
    """Microseconds."""
    times = []
    for _ in range(200):
        begun = time.perf_counter()
        product.run(None, {"x": x})
        times.append(time.perf_counter() - begun)
    return min(times) * 1e6


def main() -> None:
    """Measure."""
    rows, columns = map(int, sys.argv[1:3]) if sys.argv[2:] else (256, 8000)
    generator = np.random.default_rng(0)
    matrix = generator.standard_normal((rows, columns), np.float32) / 16
    for name, product in ways(matrix).items():
        figures = [f"{M}: {least(product, generator.standard_normal((M, rows), np.float32)):,.0f}" for M in (1, 5, 64)]
        x = generator.standard_normal((64, rows), np.float32)
        before = product.run(None, {"x": x})[0]
        error = (before - x @ matrix).std() / (x @ matrix).std()
        x[0] *= 100
        company = np.abs(product.run(None, {"x": x})[0][1:] - before[1:]).max()
        print(f"{name}: {'  '.join(figures)}  error {error:.4f}  company {company:.3g}", flush=True)


main()
