"""`qmu-edge references`: small networks that never saw an image, which verdicts compare with."""

from qmu_edge.cli.options import (
    Commands,
    DeterministicOption,
    DeviceOption,
    JsonOption,
    ProfileOption,
    ProjectOption,
    QuietOption,
    WaitOption,
    profiled,
    show,
)

app = Commands(no_args_is_help=True, help="Networks that verdicts compare with.", rich_markup_mode=None)


@app.command("build")
def references_build(
    project: ProjectOption = None,
    device: DeviceOption = "auto",
    deterministic: DeterministicOption = False,
    wait_s: WaitOption = 0,
    profile: ProfileOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Train those that are missing or know somebody who was deleted; continues after a kill."""
    from qmu_edge import api

    with profiled(quiet, profile) as shown:
        result = api.references_build(
            project, device=device, deterministic=deterministic, wait_s=wait_s, progress=shown
        )
    show(result, json)


@app.callback()
def references() -> None:
    """Networks that verdicts compare with."""
