"""Files taken apart and put together again, with a checksum that fits."""

import json

from sklearn_vae.serialization import container


def unpacked(data):
    """Header, and the bytes behind it."""
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def packed(header, payload):
    """The file of a header (a dict, or bytes as they are) and of what is behind it."""
    text = header
    if isinstance(header, dict):
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
    return sealed(len(text).to_bytes(8, "little") + text + payload)


def sealed(data):
    """The same with the checksum that it must have, if it has one."""
    if container.CHECKSUM_KEY not in data:
        return data
    at, digits = container.checksum(data)
    return data[:at] + digits + data[at + len(digits) :]


def changed(data, of_tree=None, **metadata):
    """With another tree of the model, a function of the one before, and other metadata."""
    header, payload = unpacked(data)
    known = header["__metadata__"]
    if of_tree is not None:
        known["tree"] = json.dumps(of_tree(json.loads(known["tree"])))
    header["__metadata__"] = {k: v for k, v in {**known, **metadata}.items() if v is not None}
    return packed(header, payload)


def change(path, of_tree=None, **metadata):
    """The same for a file."""
    path.write_bytes(changed(path.read_bytes(), of_tree, **metadata))


def part_of(tree, name):
    """[name, tree] of a parameter or attribute of the outermost estimator."""
    return next(pair for pair in tree["object"][1] if pair[0] == name)


def replace_in(tree, before, after):
    """With `after` wherever there was `before`."""
    if tree == before:
        return after
    if isinstance(tree, list):
        return [replace_in(part, before, after) for part in tree]
    if isinstance(tree, dict):
        return {key: replace_in(part, before, after) for key, part in tree.items()}
    return tree
