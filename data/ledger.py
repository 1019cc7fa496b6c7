"""The ledger: what became of every row of one dataset, in counts that add up."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data.errors import DataError

# A fault may hit half a million rows; a few places are enough to look it up.
EXAMPLES = 5


class LedgerLimits(BaseModel):
    """Shares (0 to 1) above which a dataset fails the run. None: no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_dropped_share: float | None = Field(default=None, ge=0, le=1)
    """Rows dropped, among the rows read and not left out by weights."""
    max_cut_share: float | None = Field(default=None, ge=0, le=1)
    """Rows shortened to max_length, among the rows kept."""
    max_overlap_share: float | None = Field(default=None, ge=0, le=1)
    """Evaluation prompts that stand in the training set, exactly or nearly, among all evaluation prompts."""


class Dropped(BaseModel):
    """How many rows one reason cost, and where the first of them stand."""

    model_config = ConfigDict(extra="forbid")

    count: int = 0
    examples: list[str] = Field(default_factory=list[str])


class Cut(BaseModel):
    """The rows that were kept but shortened."""

    model_config = ConfigDict(extra="forbid")

    rows: int = 0
    tokens: int = 0
    longest: int = 0


class SharedPrompts(BaseModel):
    """How much of one evaluation set stands in the training set."""

    model_config = ConfigDict(extra="forbid")

    prompts: int
    exact: int
    near: int
    examples: list[str] = Field(default_factory=list[str])

    @property
    def share(self) -> float:
        return (self.exact + self.near) / self.prompts if self.prompts else 0.0


class Ledger(BaseModel):
    """Counts for one dataset. `read = left_out + dropped + kept`; `unaccounted` is what breaks that sum."""

    model_config = ConfigDict(extra="forbid")

    name: str
    read: dict[str, int] = Field(default_factory=dict[str, int])
    left_out: dict[str, int] = Field(default_factory=dict[str, int])
    dropped: dict[str, Dropped] = Field(default_factory=dict[str, Dropped])
    kept: int = 0
    cut: Cut = Field(default_factory=Cut)
    identical: int = 0
    identical_by_cutting: int = 0
    prompt_ends_moved: int = 0
    prompts: int = 0
    """Of rows grouped by prompt; 0 where they are not."""
    answers: int = 0
    """Different answers to them."""
    tokens: int = 0
    loss_tokens: int = 0
    longest: int = 0
    lengths: dict[int, int] = Field(default_factory=dict[int, int])
    overlap: dict[str, SharedPrompts] = Field(default_factory=dict[str, SharedPrompts])

    def count_read(self, source: str, rows: int = 1) -> None:
        self.read[source] = self.read.get(source, 0) + rows

    def leave_out(self, source: str, rows: int = 1) -> None:
        """Rows that the mixture's weights do not take: asked for, so no limit counts them as lost."""
        self.left_out[source] = self.left_out.get(source, 0) + rows

    def drop(self, reason: str, where: str) -> None:
        entry = self.dropped.setdefault(reason, Dropped())
        entry.count += 1
        if len(entry.examples) < EXAMPLES:
            entry.examples.append(where)

    def cut_row(self, lost: int) -> None:
        self.cut.rows += 1
        self.cut.tokens += lost
        self.cut.longest = max(self.cut.longest, lost)

    def identical_pair(self, *, by_cutting: bool) -> None:
        self.identical += 1
        self.identical_by_cutting += by_cutting

    def move_prompt_end(self) -> None:
        """The prompt's last tokens merge with the completion's first, so the completion starts earlier."""
        self.prompt_ends_moved += 1

    def group(self, *, prompts: int, answers: int) -> None:
        """The kept pairs, put together by prompt."""
        self.prompts, self.answers = prompts, answers

    def keep(self, *, length: int, tokens: int, loss_tokens: int) -> None:
        """`length` is the longest sequence that the model sees for the row, `tokens` all its stored ids."""
        self.kept += 1
        self.tokens += tokens
        self.loss_tokens += loss_tokens
        self.longest = max(self.longest, length)
        bound = 1 << max(length - 1, 0).bit_length()
        self.lengths[bound] = self.lengths.get(bound, 0) + 1

    def note_overlap(self, evaluation: str, prompts: int, exact: int, near: int, examples: list[str]) -> None:
        self.overlap[evaluation] = SharedPrompts(
            prompts=prompts, exact=exact, near=near, examples=examples[:EXAMPLES]
        )

    @property
    def rows_read(self) -> int:
        return sum(self.read.values())

    @property
    def rows_left_out(self) -> int:
        return sum(self.left_out.values())

    @property
    def rows_dropped(self) -> int:
        return sum(entry.count for entry in self.dropped.values())

    @property
    def unaccounted(self) -> int:
        return self.rows_read - self.rows_left_out - self.rows_dropped - self.kept

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, value: object) -> Ledger:
        try:
            return cls.model_validate(value)
        except ValidationError as fault:
            first = fault.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise DataError(
                f"this is no ledger: {place or 'it'}: {first['msg']}",
                way_out="delete the stage's folder and run again",
            ) from fault

    def lines(self) -> list[str]:
        """The ledger as a few short lines; what did not happen is not mentioned."""
        sources = ", ".join(f"{source} {rows:,}" for source, rows in self.read.items())
        origin = f" ({sources})" if len(self.read) > 1 else ""
        lines = [f"{self.name}: {self.rows_read:,} rows read{origin}, {self.kept:,} kept"]
        if self.rows_left_out:
            lines.append(f"  left out by the mixture's weights: {self.rows_left_out:,}")
        for reason, entry in sorted(self.dropped.items(), key=lambda item: -item[1].count):
            more = ", …" if entry.count > len(entry.examples) else ""
            lines.append(f"  dropped {entry.count:,}: {reason} ({', '.join(entry.examples)}{more})")
        if self.cut.rows:
            lines.append(
                f"  cut {self.cut.rows:,} to max_length: {self.cut.tokens:,} tokens lost, "
                f"at most {self.cut.longest:,} in one row"
            )
        if self.identical:
            lines.append(
                f"  identical pairs: {self.identical:,}, "
                f"{self.identical_by_cutting:,} of them made so by cutting"
            )
        if self.prompt_ends_moved:
            lines.append(
                f"  prompt not a prefix of prompt + completion: {self.prompt_ends_moved:,} "
                "(the completion starts where they part)"
            )
        if self.prompts:
            lines.append(
                f"  grouped: {self.prompts:,} prompts with {self.answers:,} different answers, {self.kept:,} pairs"
            )
        if self.kept and self.tokens:
            spread = ", ".join(f"≤{bound}: {rows:,}" for bound, rows in sorted(self.lengths.items()))
            lines.append(
                f"  tokens {self.tokens:,}, {self.loss_tokens:,} with loss; "
                f"lengths {spread}; longest {self.longest:,}"
            )
        for evaluation, shared in self.overlap.items():
            places = f" ({'; '.join(shared.examples)})" if shared.examples else ""
            lines.append(
                f"  {evaluation}: {shared.exact:,} exact and {shared.near:,} near copies "
                f"among {shared.prompts:,} prompts stand in the training set{places}"
            )
        if self.unaccounted:
            lines.append(f"  NOT ACCOUNTED FOR: {self.unaccounted:,} rows")
        return lines

    def check(self, limits: LedgerLimits) -> None:
        """Raise when a share is above its limit; all shares that are, in one error."""
        considered = self.rows_read - self.rows_left_out
        faults: list[str] = []

        def compare(key: str, count: int, total: int, what: str, limit: float | None) -> None:
            if limit is not None and total and count / total > limit:
                faults.append(f"{what}: {count:,} of {total:,} ({count / total:.1%}), {key} is {limit:.1%}")

        compare("max_dropped_share", self.rows_dropped, considered, "rows dropped", limits.max_dropped_share)
        compare("max_cut_share", self.cut.rows, self.kept, "rows cut", limits.max_cut_share)
        for evaluation, shared in self.overlap.items():
            compare(
                "max_overlap_share",
                shared.exact + shared.near,
                shared.prompts,
                f"prompts of {evaluation} found in the training set",
                limits.max_overlap_share,
            )
        if faults:
            raise DataError(
                "; ".join(faults),
                where=self.name,
                way_out="\n  ".join(
                    [*self.lines(), "mend the data, raise max_length for cut rows, or raise the limit"]
                ),
            )
