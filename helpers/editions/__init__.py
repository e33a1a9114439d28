"""Other editions of the notebooks, generated from them: a learner's, a teacher's."""


class CourseError(RuntimeError):
    """An assignment cannot be made, and why."""
