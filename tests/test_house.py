"""What keeps the tree one that explains itself: bounds that `make check` does not look at."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("qmu_edge", "cli", "models", "export")
# Names that mean something else in this field, and what is said instead.
ELSEWHERE = {
    "serving": "fulfil", "sharding": "parallel", "accounting": "cost", "sealing": "encrypted",
    "evidence": "make_receipt", "artefacts": "inventory", "desk": "requests", "notary": "receipts",
    "casebook": "requests", "intake": "lifecycle", "planning": "schedule", "preview": "dry_run",
    "publication": "publish", "removals": "purges", "descent": "loop", "meter": "throughput",
    "allocator": "malloc", "camera": "input", "utils": "the noun of what is in it",
}  # fmt: skip

# Modules that are tested together with others, and where.
TESTED_IN = {
    "api/test_api_examples.py": (
        "qmu_edge/api/examples/adopt_a_network", "qmu_edge/api/examples/check_a_bundle",
        "qmu_edge/api/examples/forget_a_person",
    ),
    "api/test_plugins.py": (
        "qmu_edge/api/examples/plugins/dashboards", "qmu_edge/api/examples/plugins/stripes",
        "qmu_edge/api/examples/plugins/surprise", "qmu_edge/api/examples/plugins/two_blocks",
        "qmu_edge/pipeline/plugged",
    ),
    "cli/test_cli_path.py": (
        "cli/main", "cli/project", "cli/run", "qmu_edge/api/run",
        "qmu_edge/pipeline/dry_run",
    ),
    "cli/test_answers.py": ("qmu_edge/pipeline/fulfilled",),
    "audit/test_registry.py": ("qmu_edge/audit/attack", "qmu_edge/audit/subject"),
    "cli/test_audit.py": (
        "qmu_edge/pipeline/audit_run", "qmu_edge/pipeline/audit_subject", "qmu_edge/pipeline/heat_maps",
    ),
    "cli/test_adopt.py": ("qmu_edge/pipeline/adopt_run", "qmu_edge/pipeline/adoption"),
    "cli/test_bad_requests.py": ("cli/requests", "qmu_edge/api/requests"),
    "cli/test_hub.py": ("qmu_edge/api/hub",),
    "cli/test_near_duplicates.py": ("qmu_edge/pipeline/near_duplicates",),
    "cli/test_cli_receipts.py": ("cli/receipts", "cli/keys", "qmu_edge/api/receipts"),
    "cli/test_reading.py": ("qmu_edge/store/ledger/opening",),
    "cli/test_pending.py": ("qmu_edge/pipeline/fulfil",),
    "cli/test_reingestion.py": ("qmu_edge/pipeline/inputs", "qmu_edge/pipeline/train_run"),
    "cli/test_recompute.py": ("qmu_edge/pipeline/recompute", "qmu_edge/pipeline/circumstances"),
    "cli/test_resume.py": ("qmu_edge/pipeline/unlearn_run",),
    "cli/test_verdicts.py": ("qmu_edge/pipeline/verify_file",),
    "export/test_trace.py": ("export/layers", "export/writer"),
    "models/test_plain.py": ("models/integers",),
    "export/test_read_back.py": ("export/match", "export/steps",),
    "page/test_page.py": (
        "qmu_edge/page/measured", "qmu_edge/page/process", "qmu_edge/page/words",
    ),
    "models/test_models.py": ("models/layers", "models/resnet"),
    "pipeline/test_references.py": ("qmu_edge/pipeline/references_run",),
    "pipeline/test_distributed.py": ("qmu_edge/runtime/parallel",),
    "project/purge/test_inventory.py": ("qmu_edge/project/checklist",),
    "project/purge/test_purge_model.py": (
        "qmu_edge/project/needs", "qmu_edge/project/results", "qmu_edge/store/ledger/purges",
    ),
    "queue/test_cost.py": ("qmu_edge/pipeline/passes",),
    "receipt/test_receipt.py": ("qmu_edge/receipt/version1",),
    "receipt/test_statement.py": ("qmu_edge/receipt/fields",),
    "unlearn/test_last_blocks.py": ("qmu_edge/unlearn/methods/cf_k", "qmu_edge/unlearn/methods/eu_k"),
}  # fmt: skip

# Where a dictionary may hold whatever it likes, how often, and why; every other one has a type.
UNTYPED = {
    "models/layers.py": (2, "arguments of Brevitas' quantizers"),
    "models/of_brevitas.py": (1, "arguments of Brevitas' quantizers"),
    "qmu_edge/api/receipts.py": (1, "a JSON Schema"),
    "qmu_edge/io/json.py": (2, "the reader of JSON"),
    "qmu_edge/io/toml.py": (2, "TOML as it was read, and as it is written"),
    "qmu_edge/page/language.py": (2, "texts of a language, which its reader checks"),
    "qmu_edge/receipt/statement.py": (2, "a JSON Schema, and a receipt of any version as JSON"),
    "qmu_edge/request/document.py": (1, "a JSON Schema"),
    "qmu_edge/runtime/parallel.py": (1, "arguments of any of PyTorch's functions"),
    "qmu_edge/store/ledger/chain.py": (1, "the body of any event"),
    "qmu_edge/train/checkpoint.py": (1, "the header of a checkpoint of any version, which its reader checks"),
}


def sources(*tops: str) -> Iterator[tuple[Path, str]]:
    for top in tops or ROOMS:
        for path in sorted((ROOT / top).rglob("*.py")):
            if not any(folder.is_symlink() for folder in path.parents):
                yield path.relative_to(ROOT), path.read_text("utf-8")


def functions(text: str) -> Iterator[ast.FunctionDef]:
    yield from (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef))


def test_every_module_lies_in_a_room() -> None:
    flat = {p.name for p in (ROOT / "qmu_edge").glob("*.py")}
    assert flat <= {"__init__.py", "errors.py", "recipe.py"}, flat


def has_tests(module: Path) -> bool:
    """Whether the tests of the module's room have a file of its name."""
    inside = module.relative_to("qmu_edge") if module.is_relative_to("qmu_edge") else module
    room = ROOT / "tests" / inside.parent.parts[0] if inside.parent.parts else ROOT / "tests"
    return any(room.rglob(f"test_{module.stem.strip('_')}.py"))


def test_every_module_has_tests_of_its_name_or_is_named_here() -> None:
    """A module without a function has nothing to test."""
    bare = [
        str(path.with_suffix(""))
        for path, text in sources()
        if path.name != "__init__.py" and any(functions(text)) and not has_tests(path)
    ]
    assert sorted(bare) == sorted(module for modules in TESTED_IN.values() for module in modules)
    assert all((ROOT / "tests" / name).is_file() for name in TESTED_IN)


def test_rooms_are_named_by_the_fields_terms() -> None:
    found = {str(path): ELSEWHERE[path.stem] for path, _ in sources() if path.stem in ELSEWHERE}
    assert not found, f"say instead: {found}"


def test_files_stay_under_400_lines() -> None:
    long = {str(p): n for p, text in sources(*ROOMS, "tests", "bench") if (n := text.count("\n")) > 400}
    assert not long


def test_sql_is_said_in_the_ledgers_room_only() -> None:
    sql = re.compile(r"\b(SELECT \S|INSERT (OR \w+ )?INTO|DELETE FROM|UPDATE \w+ SET|PRAGMA \w)")
    outside = [
        f"{path}: {line.strip()}"
        for path, text in sources()
        if not path.is_relative_to("qmu_edge/store/ledger")
        for line in text.splitlines()
        if sql.search(line)
    ]
    assert not outside


def test_functions_take_what_they_use() -> None:
    """Twenty functions put a whole project to work; the others are given a part of it."""
    takers = [
        f"{path}: {function.name}"
        for path, text in sources()
        for function in functions(text)
        for argument in (*function.args.args, *function.args.kwonlyargs)
        if argument.annotation is not None
        and "Project" in re.findall(r"\w+", ast.unparse(argument.annotation))
    ]
    assert len(takers) <= 20, takers


def test_functions_are_short() -> None:
    lengths = sorted(
        f.end_lineno - f.lineno + 1 for _, text in sources() for f in functions(text) if f.end_lineno
    )
    assert lengths[len(lengths) // 2] <= 12 and lengths[len(lengths) * 9 // 10] <= 30


def test_results_are_typed() -> None:
    """What is passed on has a type that names its keys; a mapping of anything is for what others wrote."""
    found = {str(path): n for path, text in sources() if (n := text.count("dict[str, Any]"))}
    assert found == {path: n for path, (n, _) in UNTYPED.items()}


def test_the_words_of_the_ledger_are_said_in_one_place() -> None:
    """States, statuses and steps are enums; results and receipts are made of the enums' values."""
    from qmu_edge.store.ledger.states import State, Status

    words = {*State, *Status}
    allowed = ("qmu_edge/store/ledger/states.py",)
    said = [
        f"{path}:{node.lineno}"
        for path, text in sources()
        if str(path) not in allowed
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Compare | ast.Call)
        for value in (node.comparators if isinstance(node, ast.Compare) else node.args)
        if isinstance(value, ast.Constant) and isinstance(value.value, str) and value.value in words
    ]
    assert not said, said


def test_every_folder_is_made_with_a_mode() -> None:
    """By the umask of whoever runs the command, anybody could put other files into it."""
    found = [
        f"{path}: {line.strip()}"
        for path, text in sources()
        for line in text.splitlines()
        if re.search(r"\.mkdir\((?!mode=)|makedirs\(", line)
    ]
    assert found == []
