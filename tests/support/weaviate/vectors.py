"""Vectors as the server keeps them: single precision, written with the fewest digits that tell them apart."""

from array import array


def vector_text(values):
    """The JSON text of a vector; the same numbers always give the same text."""
    single = array("f", values)
    texts = ["%.7g" % value for value in single]
    again = array("f", map(float, texts))
    if again != single:
        for index, value in enumerate(single):
            if again[index] != value:
                texts[index] = _longer(value)
    return "[" + ",".join(texts) + "]"


def _longer(value):
    """Eight digits where they suffice, else nine, which always do."""
    text = "%.8g" % value
    return text if array("f", [float(text)])[0] == value else "%.9g" % value


def length(text):
    """How many numbers a vector's text holds; of several vectors the first one counts."""
    first = text[:text.index("]") + 1]
    return first.count(",") + 1 if len(first) > 2 else 0
