"""``diffinfo <stage> ...`` is ``python -m diffinfo.<stage> ...``; ``diffinfo`` alone lists the stages."""

import runpy
import sys
from pathlib import Path

from diffinfo import begin_stage


def stages() -> list[str]:
    """Names of the modules that are programs: ``train.sft``, ``reward``."""
    root = Path(__file__).parent
    return sorted(
        ".".join(file.relative_to(root).with_suffix("").parts)
        for file in root.rglob("*.py")
        if '\nif __name__ == "__main__":\n' in file.read_text() and file != Path(__file__)
    )


def main() -> None:
    """Run the stage that the first argument names, with the others as its own."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    listed = "diffinfo <stage> --help, where <stage> is one of:\n  " + "\n  ".join(stages())
    if name in ("-h", "--help"):
        print(listed)
    elif name not in stages():
        sys.exit(f"error: {name} is not a stage.\n{listed}")
    else:
        begin_stage()
        del sys.argv[1]
        runpy.run_module(f"diffinfo.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
