"""A tiny text grammar: `{name}` in a string is replaced by a random choice of the list of that name, recursively."""

import re

SLOT = re.compile(r"\{(\w+)(?::(\w+))?\}")


class Grammar:
    """Rules are lists of strings. `{name:x}` remembers its choice under x, and `{x}` repeats it in the same text."""

    def __init__(self, rng, rules):
        self.rng, self.rules = rng, rules

    def expand(self, text, bound=None):
        bound = {} if bound is None else bound

        def fill(match):
            name, label = match.group(1), match.group(2)
            if name in bound:
                return bound[name]
            choice = self.expand(self.rng.choice(self.rules[name]), bound)
            if label:
                bound[label] = choice
            return choice

        return SLOT.sub(fill, text)

    def pick(self, name):
        return self.expand(self.rng.choice(self.rules[name]))

    def sentence(self, name):
        text = self.pick(name)
        return text[0].upper() + text[1:]
