import ast
import json
from pathlib import Path

import pytest

from fastvae_kernels.parts import PARTS
from fastvae_kernels.tiling import best_tile, shipped_tiles
from tools import aot
from tools.aot_build import Build
from tools.aot_builds import KERNELS, all_builds
from tools.aot_gemms import gemm_tiles, target_of
from tools.aot_read import Reading, parse_amdgcn, parse_cubin
from tools.aot_rules import figures, problems, regressions

TRITON = Path(__file__).parents[2] / "kernels" / "fastvae_kernels" / "triton"
TILED = ("linear", "linear_score")
GOOD = Reading(registers=100, spills=0, shared=98304, load_bits=128, store_bits=128, matrix={"HGMMA": 4}, bulk=6)
BUILD = Build("tile", {}, {}, 8, 3, matrix="bf16", bulk=True, load_bits=128, store_bits=128, target="sm_90", kernel="k")

USAGE = "Resource usage:\n Function kernel:\n  REG:126 STACK:0 SHARED:0 LOCAL:0 CONSTANT[0]:608"
SASS = """
    /*0010*/ LDG.E.U16 R4, desc[UR6][R2.64] ;
    /*0020*/ LDG.E.128.CONSTANT R8, desc[UR6][R2.64+0x10] ;
    /*0030*/ HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], R24 ;
    /*0040*/ HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], R24 ;
    /*0050*/ STG.E.64 desc[UR6][R2.64], R4 ;
    /*0060*/ STG.E desc[UR6][R2.64], R4 ;
"""
AMDGCN = """
    global_load_dwordx4 v[0:3], v4, s[0:1]
    buffer_load_ushort v5, v6, s[8:11], 0 offen
    v_mfma_f32_32x32x8_bf16 a[0:15], v[0:1], v[2:3], a[0:15]
    global_store_dwordx2 v4, v[0:1], s[2:3]
    .private_segment_fixed_size: 0
    .sgpr_spill_count: 6
    .vgpr_count:     124
    .vgpr_spill_count: 0
"""


def test_a_cubin_is_read() -> None:
    reading = parse_cubin(USAGE, SASS, 1024)
    assert reading == Reading(126, 0, 1024, 128, 64, {"HGMMA": 2}, 0)


def test_the_narrowest_copy_to_shared_memory_counts() -> None:
    copies = (
        "LDGSTS.E.BYPASS.128 [R1], desc[UR4][R2.64] ;\nLDGSTS.E.LTC128B.64 [R1], desc[UR4][R2.64] ;\nLDG.E.128 R1 ;"
    )
    assert parse_cubin(USAGE, copies, 0).load_bits == 64


def test_spills_and_bulk_copies_are_counted() -> None:
    reading = parse_cubin(USAGE, "STL [R1], R2 ;\nLDL.64 R2, [R1] ;\nUTMALDG.2D [UR4] ;\nUTMASTG.2D [UR4] ;", 0)
    assert (reading.spills, reading.bulk, reading.load_bits, reading.store_bits) == (2, 2, 0, 0)


def test_amdgcn_is_read_and_only_vector_registers_spill() -> None:
    reading = parse_amdgcn(AMDGCN, 65536)
    assert reading == Reading(124, 0, 65536, 128, 64, {"v_mfma_f32_32x32x8_bf16": 1}, 0)
    assert parse_amdgcn(AMDGCN.replace("segment_fixed_size: 0", "segment_fixed_size: 16"), 0).spills == 4


def test_a_good_build_has_no_problem() -> None:
    assert problems(BUILD, GOOD, PARTS["sm_90"]) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"spills": 3}, "3 spills"),
        ({"shared": 232_449}, "shared memory"),
        ({"matrix": {"HMMA": 9}}, "no HGMMA"),
        ({"matrix": {}}, "no HGMMA"),
        ({"bulk": 0}, "no bulk copies"),
        ({"load_bits": 64}, "promised 128-bit loads"),
        ({"store_bits": 32}, "promised 128-bit stores"),
    ],
    ids=str,
)
def test_each_rule_can_be_broken(change: dict[str, int], said: str) -> None:
    (problem,) = problems(BUILD, Reading(**{**vars(GOOD), **change}), PARTS["sm_90"])
    assert said in problem


@pytest.mark.parametrize(
    ("change", "worse"),
    [
        ({}, []),
        ({"registers": 110}, []),
        ({"registers": 111}, ["registers"]),
        ({"registers": 90, "shared": 98305}, ["shared"]),
        ({"matrix": {"HGMMA": 2}}, []),
        ({"matrix": {}}, ["matrix"]),
        ({"load_bits": 64, "store_bits": 64}, ["load_bits", "store_bits"]),
    ],
    ids=str,
)
def test_what_counts_as_a_regression(change: dict[str, int], worse: list[str]) -> None:
    lines = regressions("key", Reading(**{**vars(GOOD), **change}), {"key": figures(GOOD)})
    assert [line.split()[1] for line in lines] == worse


def test_a_few_registers_more_are_no_regression_however_few_there_were() -> None:
    small = Reading(**{**vars(GOOD), "registers": 24})
    assert regressions("key", Reading(**{**vars(GOOD), "registers": 32}), {"key": figures(small)}) == []


def test_a_build_that_the_baseline_lacks_is_an_error_that_says_what_to_do() -> None:
    (line,) = regressions("sm_90/new", GOOD, {})
    assert "--write-baseline" in line


def test_filed_figures_are_kept_unless_their_build_is_gone_or_another_compiler_made_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, second = all_builds("sm_80")[:2]
    file = tmp_path / "baseline.json"
    monkeypatch.setattr(aot, "BASELINE", file)
    for version, kept in ((aot.triton.__version__, {second.key}), ("0.0", set())):
        builds = {key: figures(GOOD) for key in (second.key, "sm_80/gone")}
        file.write_text(json.dumps({"triton": version, "builds": builds}))
        aot.write_baseline([aot.Row(first, GOOD, 0.0, ())])
        assert aot.baseline()["builds"].keys() == {first.key} | kept
        assert aot.baseline()["triton"] == aot.triton.__version__


def jitted_kernels() -> set[str]:
    """Every function under triton/ that is jitted and called a kernel."""
    found = set()
    for path in TRITON.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.endswith("_kernel"):
                assert any("triton.jit" in ast.unparse(each) for each in node.decorator_list)
                found.add(f"{path.stem}.{node.name}")
    return found


def test_every_kernel_is_compiled() -> None:
    assert jitted_kernels() == KERNELS.keys()


@pytest.mark.parametrize("target", PARTS)
def test_every_shipped_tile_is_compiled(target: str) -> None:
    builds = all_builds(target)
    for op in (*TILED, "linear_prior"):
        tiles = {tile for tiles in shipped_tiles(op, target).values() for tile in tiles}
        assert tiles == {tile for _, tile in gemm_tiles(op, target)}
        sources = {"prior"} if op == "linear_prior" else {"memory"}
        module = "linear" if op == "linear_prior" else op
        for tile in tiles:
            mine = [
                build.constants["SOURCE"]
                for build in builds
                if build.kernel.startswith(f"{module}.")
                and build.constants.get("TILE") == tile.tile
                and (build.num_warps, build.num_stages) == (tile.num_warps, tile.num_stages)
                and build.constants["PARTS"] == tile.parts
            ]
            wanted = sources | ({"tma"} if tile.tma and PARTS[target].has_tma and module == op else set())
            assert wanted <= set(mine), (op, tile)


@pytest.mark.parametrize("target", PARTS)
def test_keys_are_unique_and_in_the_baseline(target: str) -> None:
    keys = [build.key for build in all_builds(target) if not build.impossible]
    assert len(keys) == len(set(keys))
    assert sorted(keys) == sorted(key for key in aot.baseline()["builds"] if key.startswith(f"{target}/"))


@pytest.mark.parametrize("target", PARTS)
def test_what_layers_of_odd_width_launch_is_compiled_without_wide_loads(target: str) -> None:
    unaligned = {build.constants["TILE"] for build in all_builds(target) if "unaligned" in build.name}
    for outputs in (1, 10, 64, 512, 4096):
        assert best_tile("linear", outputs, 785, "bf16", PARTS[target]).tile in unaligned


def test_no_8_bit_product_is_compiled_where_there_is_no_such_instruction() -> None:
    for target in ("sm_80", "gfx942"):
        assert "fp8" not in PARTS[target].flops
        assert not [build for build in all_builds(target) if build.matrix == "fp8" and not build.impossible]


def test_a_measured_device_has_a_target() -> None:
    assert target_of("NVIDIA H100 80GB HBM3") == "sm_90"
    assert target_of("NVIDIA GeForce RTX 5090") == "sm_120"
    with pytest.raises(ValueError, match="Voodoo 3"):
        target_of("Voodoo 3")


def test_kernels_that_are_interpreted_are_not_compiled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr("sys.argv", ["aot.py"])
    with pytest.raises(SystemExit):
        aot.main()
    assert "TRITON_INTERPRET" in capsys.readouterr().err
