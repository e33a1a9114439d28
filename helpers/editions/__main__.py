"""The command line, `python -m helpers.editions`: make another edition of the notebooks."""

from __future__ import annotations

import argparse
import sys

from helpers.editions import CourseError
from helpers.editions.learner import write_copies
from helpers.files import ChapterError


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status; what cannot be done is told in a sentence."""
    parser = argparse.ArgumentParser(prog="python -m helpers.editions", allow_abbrev=False)
    editions = parser.add_subparsers(dest="edition", required=True)
    editions.add_parser("learner", help="working copies without solutions, in learner/")
    assignment = editions.add_parser("assignment", help="an nbgrader course with one chapter, in course/")
    slides = editions.add_parser("slides", help="slides of one chapter, in build/slides/")
    for one in (assignment, slides):
        one.add_argument("chapter", help="03, 03_svmax, reading_list/04")
    given = parser.parse_args(arguments)
    try:
        if given.edition == "learner":
            notes = write_copies()
        elif given.edition == "slides":
            from helpers.editions.slides import write_slides  # what draws formulas is slow to import

            notes = [f"The slides: {write_slides(given.chapter)}"]
        else:
            from helpers.editions.classroom import write_assignment  # torch is slow to import

            notes = write_assignment(given.chapter)
    except (ChapterError, CourseError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(notes), end="\n" * bool(notes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
