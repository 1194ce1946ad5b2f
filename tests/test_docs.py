"""The manuals say what is true of the tree: links, trees, commands, job files, Python examples."""

import ast
import dataclasses
import importlib
import inspect
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

import nightpress
from nightpress.diffusion_core.errors import NightpressError
from nightpress.jobs import cli
from nightpress.pipelines.campaign.reading import read_spec
from nightpress.pipelines.export.spec import ExportSpec
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.training.spec import train_spec

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("diffusion_core", "pipelines", "jobs", "infra", "tests")
MANUALS = ("README.md", "CONTRIBUTING.md", *(f"{package}/README.md" for package in PACKAGES))

MOST_LINES_OF_README = 200


@dataclass(frozen=True)
class Block:
    """A fenced code block of a manual."""

    manual: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        """`jobs/README.md:12`."""
        return f"{self.manual}:{self.line}"


@cache
def text_of(manual: str) -> str:
    return (ROOT / manual).read_text(encoding="utf-8")


@cache
def blocks(manual: str) -> tuple[Block, ...]:
    found, start, language, lines = [], 0, "", list[str]()
    for number, line in enumerate(text_of(manual).splitlines(), start=1):
        if not line.startswith("```"):
            lines.append(line)
        elif start:
            found.append(Block(manual, start, language, "\n".join(lines)))
            start = 0
        else:
            start, language, lines = number, line.removeprefix("```"), []
    assert not start, f"{manual}:{start}: the code block does not end"
    return tuple(found)


@cache
def prose(manual: str) -> str:
    """The manual without its code blocks."""
    return re.sub(r"^```.*?^```$", "", text_of(manual), flags=re.MULTILINE | re.DOTALL)


def in_language(*languages: str) -> list[Block]:
    return [block for each in MANUALS for block in blocks(each) if block.language in languages]


def table_under(manual: str, heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its own heading and rule."""
    _, found, rest = text_of(manual).partition(f"\n{heading}\n")
    assert found, f"{manual} has no heading {heading!r}"
    match = re.search(r"^\|.*?\n(?!\|)", rest + "\n", flags=re.MULTILINE | re.DOTALL)
    assert match, f"{manual}: there is no table under {heading!r}"
    rows = [line.strip("|").split("|") for line in match.group().strip().splitlines()]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def code_spans(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def test_the_readme_is_short() -> None:
    assert len(text_of("README.md").splitlines()) <= MOST_LINES_OF_README


# Links


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(manual: Path) -> set[str]:
    relative = manual.relative_to(ROOT).as_posix()
    return {slug(each) for each in re.findall(r"^#+ (.*)$", prose(relative), re.MULTILINE)}


@pytest.mark.parametrize("manual", MANUALS)
def test_every_relative_link_leads_somewhere(manual: str) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(manual)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / manual).parent / path if path else ROOT / manual
        if not target.exists() or (anchor and anchor not in anchors(target.resolve())):
            broken.append(link)
    assert broken == []


# Trees


def entries(folder: Path) -> set[str]:
    """What a tree shows of a folder: its files, and its folders with a slash behind.

    It does not show the stubs that list what a package exports.
    """
    names = set()
    for path in (path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file()):
        first, *rest = path.relative_to(folder).parts
        is_listed = path.suffix != ".pyi" and "__pycache__" not in path.parts
        if is_listed and not first.startswith("."):
            names.add(f"{first}/" if rest else first)
    return names - {"__init__.py", "README.md"}


def shown(manual: str) -> Iterator[tuple[Path, str]]:
    """(folder, entry) for each line of a manual's tree; the first line is its own folder."""
    tree = next(block for block in blocks(manual) if block.text.startswith(Path(manual).parts[0]))
    folders: list[Path] = []
    for line in tree.text.splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        assert depth == 0 or len(line.split()) > 1, f"{manual}: {name} is not explained"
        del folders[depth:]
        if folders:
            yield folders[-1], name
        folders.append(Path(*folders[-1:], name))


@pytest.mark.parametrize("package", PACKAGES)
def test_a_tree_names_what_is_there_and_nothing_else(package: str) -> None:
    listed: dict[Path, set[str]] = {}
    for folder, name in shown(f"{package}/README.md"):
        listed.setdefault(folder, set()).add(name)
    assert listed == {folder: entries(folder) for folder in listed}


# Commands

NIGHTPRESS = ("nightpress", ".venv/bin/nightpress")


def command_lines(block: Block) -> Iterator[list[str]]:
    """The nightpress commands in a block of shell or crontab lines, as words."""
    text = re.sub(r"\$\([^)]*\)", "SUBSTITUTED", block.text.replace("\\\n", " "))
    for line in text.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        commands: list[list[str]] = [[]]
        for word in lexer:
            if set(word) <= set("();<>|&"):
                commands.append([])
            else:
                commands[-1].append(word)
        yield from (words[1:] for words in commands if words and words[0] in NIGHTPRESS)


def parse(words: list[str]) -> None:
    """Parse a command line as `nightpress` does, without running it."""
    name, *arguments = words
    command = cli.command.get_command(click.Context(cli.command), name)
    assert command is not None, f"there is no command {name!r}"
    if "--help" not in arguments:
        command.make_context(name, arguments)


COMMANDS = [
    (block, words) for block in in_language("sh", "crontab") for words in command_lines(block)
]


@pytest.mark.parametrize(("block", "words"), COMMANDS, ids=[" ".join(w) for _, w in COMMANDS])
def test_every_command_in_a_code_block_parses(block: Block, words: list[str]) -> None:
    parse(words)


@pytest.mark.parametrize("manual", MANUALS)
def test_every_command_in_the_text_is_a_command(manual: str) -> None:
    named = {
        span.split()[1] for span in code_spans(prose(manual)) if re.match(r"nightpress [a-z]", span)
    }
    assert named - {"COMMAND"} <= set(cli.COMMANDS)


def benchmark_source(script: str) -> str:
    """The text of a benchmark, and of its neighbours from which it imports."""
    folder = ROOT / "tests" / "benchmarks"
    text = (folder / script).read_text(encoding="utf-8")
    neighbours = [folder / f"{name}.py" for name in re.findall(r"^from (\w+) import", text, re.M)]
    return text + "".join(each.read_text("utf-8") for each in neighbours if each.exists())


@pytest.mark.parametrize("manual", MANUALS)
def test_every_script_and_module_exists_and_has_the_options_it_is_shown_with(manual: str) -> None:
    text = text_of(manual).replace("\\\n", " ")
    for script, options in re.findall(
        r"\b((?:bench_\w+|gpu_night|nights|download_size)\.py)([^`\n]*)", text
    ):
        source = benchmark_source(script)
        for option in re.findall(r"(?<= )--[a-z][a-z-]*", options.partition("#")[0]):
            assert f'"{option}"' in source, f"{script} {option}"
    for module in re.findall(r"python -m (nightpress[\w.]+)", text):
        assert importlib.util.find_spec(module) is not None, module


def test_every_command_has_a_section_of_the_manual() -> None:
    rows = table_under("jobs/README.md", "## Commands")
    assert [code_spans(row[0])[0] for row in rows] == [
        each.removeprefix("nightpress ")
        for each in re.findall(r"^### (nightpress \w+)$", text_of("jobs/README.md"), re.MULTILINE)
    ]
    assert {code_spans(row[0])[0] for row in rows} == set(cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_section_names_only_options_of_its_command(name: str) -> None:
    _, _, rest = prose("jobs/README.md").partition(f"\n### nightpress {name}\n")
    section = re.split(r"^##", rest, maxsplit=1, flags=re.MULTILINE)[0]
    command = cli.command.get_command(click.Context(cli.command), name)
    assert command is not None
    allowed = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
    named = {word for span in code_spans(section) for word in re.findall(r"^--[a-z-]+", span)}
    assert named <= allowed


# Job files and Python


@pytest.mark.parametrize("block", in_language("yaml"), ids=str)
def test_every_piece_of_a_job_file_is_valid(block: Block) -> None:
    values = yaml.safe_load(block.text)
    if "recipe" in values:
        train_spec({"name": "job"} | values)
    elif "from" in values:
        ExportSpec.from_dict({"name": "set"} | values)
    elif "prompt" in values:
        read_spec("example.campaign.yaml", block.text.encode())
    else:
        RunSpec.from_dict({"name": "job", "manifest": "prompts.csv", "output": "press"} | values)


@pytest.mark.parametrize("block", in_language("python"), ids=str)
def test_every_python_example_compiles_and_imports_what_exists(block: Block) -> None:
    tree = ast.parse(block.text)
    compile(tree, str(block), "exec")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nightpress"):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"


def test_the_report_of_the_quick_start_is_that_of_the_job_that_init_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (job,) = {
        words[-1] for block, words in COMMANDS if block.manual == "README.md" and words[0] == "plan"
    }
    assert CliRunner().invoke(cli.command, ["init", job]).exit_code == 0
    report = re.search(r"\*\*Open the report\*\*, `([^`]+)`", text_of("README.md"))
    assert report is not None
    assert report[1] == f"{RunSpec.from_file(job).url}/report.html"


# The Python API


def signature(function: Callable[..., Any]) -> list[tuple[str, bool]]:
    """(name, whether it must be named) of each parameter."""
    parameters = inspect.signature(function).parameters.values()
    return [(each.name, each.kind is each.KEYWORD_ONLY) for each in parameters]


def written_signature(span: str) -> tuple[str, list[tuple[str, bool]]]:
    """The name and the parameters of a function as the manual writes it."""
    (function,) = ast.parse(f"def {span}: ...").body
    assert isinstance(function, ast.FunctionDef)
    positional = [(each.arg, False) for each in function.args.args]
    return function.name, positional + [(each.arg, True) for each in function.args.kwonlyargs]


def fields(result: type) -> set[str]:
    """What can be read from a result: its fields and properties."""
    properties = {name for name, value in vars(result).items() if isinstance(value, property)}
    is_record = dataclasses.is_dataclass(result)
    return properties | ({each.name for each in dataclasses.fields(result)} if is_record else set())


def exported(kind: Callable[[object], bool]) -> set[str]:
    """What `nightpress` exports of a kind."""
    return {name for name in nightpress.__all__ if kind(getattr(nightpress, name))}


def test_the_manual_lists_every_function_with_its_parameters() -> None:
    listed = set()
    for row in table_under("jobs/README.md", "### Functions"):
        name, parameters = written_signature(code_spans(row[0])[0])
        assert parameters == signature(getattr(nightpress, name)), name
        returned = inspect.signature(getattr(nightpress, name)).return_annotation
        names = re.findall(r"\w+", getattr(returned, "__name__", str(returned)))
        assert set(code_spans(row[2])) <= set(names), name
        listed.add(name)
    assert listed == exported(inspect.isfunction)


def test_the_manual_lists_every_job_result_and_error() -> None:
    jobs = [code_spans(row[0])[0] for row in table_under("jobs/README.md", "### Jobs")]
    results = table_under("jobs/README.md", "### Results")
    for row in results:
        result = getattr(nightpress, code_spans(row[0])[0])
        assert set(code_spans(row[1])) == fields(result), row[0]
    listed = {*jobs, *(code_spans(row[0])[0] for row in results), "NightpressError"}
    assert listed == exported(inspect.isclass)
    for row in table_under("jobs/README.md", "### Errors"):
        module = importlib.import_module(code_spans(row[0])[0])
        for name in code_spans(row[1]):
            assert issubclass(getattr(module, name), NightpressError), name
