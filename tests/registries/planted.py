"""Pairs of a planted fault and its sound twin: the checker must report the first and pass the second."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.registries import planted_batches as batches
from tests.registries import planted_functions as functions
from tests.registries import planted_monoids as monoids
from tests.registries import planted_sinks as sinks
from tests.registries.planted_functions import Doc, Profile, Visit
from tests.registries.planted_sinks import Row

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

__all__ = ["BATCHES", "FUNCTIONS", "MONOIDS", "SINKS", "Planted"]


@dataclass(frozen=True)
class Planted:
    """A fault and its twin.

    Attributes:
        fault: What a reviewer would say, in a few words.
        broken: The subject that has it: a monoid, a function, or a factory of a sink.
        sound: The same job done right.
        values: A type, or a function that gives a Hypothesis strategy.
        laws: At least one of them must be reported as broken.
        sound_values: Where the twin takes other values.
    """

    fault: str
    broken: Any
    sound: Any
    values: Any
    laws: tuple[str, ...]
    sound_values: Any = None


def readings() -> SearchStrategy[float]:
    from hypothesis import strategies as st

    return st.floats(0.0, 1000.0)


def factors() -> SearchStrategy[float]:
    from hypothesis import strategies as st

    return st.floats(0.5, 2.0)


def fractions() -> SearchStrategy[Any]:
    from hypothesis import strategies as st

    return st.fractions(0, 1000, max_denominator=100)


def sorted_numbers() -> SearchStrategy[list[int]]:
    from hypothesis import strategies as st

    return st.lists(st.integers(-20, 20), max_size=5).map(sorted)


def best_numbers() -> SearchStrategy[list[int]]:
    from hypothesis import strategies as st

    return st.lists(st.integers(0, 20), max_size=3).map(lambda found: sorted(found, reverse=True))


def best_players() -> SearchStrategy[list[tuple[int, str]]]:
    from hypothesis import strategies as st

    players = st.tuples(st.integers(0, 3), st.sampled_from(["ann", "bob", "cy"]))
    return st.lists(players, max_size=3).map(lambda found: sorted(found, reverse=True))


def small_sets() -> SearchStrategy[frozenset[int]]:
    from hypothesis import strategies as st

    return st.frozensets(st.integers(0, 6))


def number_sets() -> SearchStrategy[set[int]]:
    from hypothesis import strategies as st

    return st.sets(st.integers(0, 6))


def tag_sets() -> SearchStrategy[frozenset[str]]:
    from hypothesis import strategies as st

    return st.frozensets(st.sampled_from(["news", "sport", "arts"]))


def counted_sets() -> SearchStrategy[tuple[int, frozenset[int]]]:
    return small_sets().map(lambda found: (len(found), found))


def counts() -> SearchStrategy[dict[str, int]]:
    from hypothesis import strategies as st

    return st.dictionaries(st.sampled_from("abc"), st.integers(1, 9))


def counters() -> SearchStrategy[Counter[str]]:
    return counts().map(Counter)


def two_counters() -> SearchStrategy[tuple[Counter[str], Counter[str]]]:
    from hypothesis import strategies as st

    return st.tuples(counters(), counters())


def balances() -> SearchStrategy[dict[str, int]]:
    from hypothesis import strategies as st

    return st.dictionaries(st.sampled_from("abc"), st.integers(-9, 9))


def versions() -> SearchStrategy[dict[str, tuple[int, int]]]:
    from hypothesis import strategies as st

    return st.dictionaries(st.sampled_from("abc"), st.tuples(st.integers(0, 5), st.integers()))


def posting_lists() -> SearchStrategy[dict[str, set[int]]]:
    from hypothesis import strategies as st

    return st.dictionaries(st.sampled_from("abc"), st.sets(st.integers(0, 6), min_size=1))


def value_counts() -> SearchStrategy[dict[int, int]]:
    from hypothesis import strategies as st

    return st.dictionaries(st.integers(0, 9), st.integers(1, 9))


MONOIDS: tuple[Planted, ...] = (
    Planted(
        "mean without counts",
        monoids.MeanOfMeans(),
        monoids.MeanBySumAndCount(),
        readings,
        ("identity", "associativity"),
        sound_values=tuple[int, int],
    ),
    Planted(
        "subtraction",
        monoids.StockLeftBySubtraction(),
        monoids.StockLeftBySignedChanges(),
        int,
        ("identity", "associativity", "commutativity"),
    ),
    Planted(
        "fsum of two at a time",
        monoids.TotalRoundedAtEachMerge(),
        monoids.TotalInFractions(),
        readings,
        ("associativity",),
        sound_values=fractions,
    ),
    Planted(
        "float sum without a tolerance",
        monoids.FloatTotal(),
        monoids.FloatTotalWithinTolerance(),
        readings,
        ("associativity",),
    ),
    Planted(
        "concatenation declared commutative",
        monoids.Concatenated(),
        monoids.MergedInOrder(),
        sorted_numbers,
        ("commutativity",),
    ),
    Planted(
        "last write wins",
        monoids.LastWriteWins(),
        monoids.NewestVersionWins(),
        balances,
        ("commutativity",),
        sound_values=versions,
    ),
    Planted(
        "maximum from zero on",
        monoids.HighestAboveZero(),
        monoids.HighestIfAny(),
        int,
        ("identity",),
    ),
    Planted(
        "join with a separator",
        monoids.NamesJoinedByComma(),
        monoids.NamesJoinedAtTheEnd(),
        str,
        ("identity", "commutativity"),
        sound_values=frozenset[str],
    ),
    Planted(
        "adds into its left argument",
        monoids.CountsAddedInPlace(),
        monoids.CountsAddedToACopy(),
        counts,
        ("arguments untouched",),
    ),
    Planted(
        "adds into its larger argument",
        monoids.SmallerIntoLarger(),
        monoids.UnionAsANewSet(),
        number_sets,
        ("arguments untouched",),
    ),
    Planted(
        "shallow copy of a nested argument",
        monoids.IndexOverAShallowCopy(),
        monoids.IndexOfNewSets(),
        posting_lists,
        ("arguments untouched",),
    ),
    Planted(
        "one identity shared by all",
        monoids.VisitsFromOneSharedDict(),
        monoids.VisitsFromANewDict(),
        counts,
        ("identity", "arguments untouched"),
    ),
    Planted(
        "exponential decay in order of arrival",
        monoids.ExponentialDecay(),
        monoids.DecayOfKeptReadings(),
        readings,
        ("identity", "associativity", "commutativity"),
        sound_values=dict[int, int],
    ),
    Planted(
        "median of medians",
        monoids.MedianOfMedians(),
        monoids.MedianByCounts(),
        sorted_numbers,
        ("identity", "associativity"),
        sound_values=value_counts,
    ),
    Planted(
        "first one wins",
        monoids.FirstOneWins(),
        monoids.EarliestOneWins(),
        str,
        ("commutativity",),
        sound_values=tuple[int, str],
    ),
    Planted(
        "product rounded at each step",
        monoids.GrowthRoundedAtEachStep(),
        monoids.GrowthRoundedAtTheEnd(),
        factors,
        ("identity", "associativity"),
        sound_values=fractions,
    ),
    Planted(
        "intersection from the empty set on",
        monoids.CommonTagsFromNone(),
        monoids.CommonTagsFromEverything(),
        tag_sets,
        ("identity",),
    ),
    Planted(
        "distinct count over neighbours only",
        monoids.DistinctAcrossTheSeam(),
        monoids.DistinctByUnion(),
        counted_sets,
        ("identity", "associativity", "commutativity"),
        sound_values=small_sets,
    ),
    Planted(
        "variance without counts",
        monoids.VarianceWithoutCounts(),
        monoids.VarianceByPowerSums(),
        tuple[int, int],
        ("identity", "associativity"),
        sound_values=tuple[int, int, int],
    ),
    Planted(
        "top k cut before it is sorted",
        monoids.TopThreeCutBeforeSorting(),
        monoids.TopThreeCutAfterSorting(),
        best_numbers,
        ("associativity", "commutativity"),
    ),
    Planted(
        "top k where ties go to the last",
        monoids.BestThreeOneAScore(),
        monoids.BestThreeTiesByName(),
        best_players,
        ("identity", "commutativity"),
    ),
    Planted(
        "Counter addition drops what is below one",
        monoids.BalancesByCounterAddition(),
        monoids.BalancesByCounterUpdate(),
        balances,
        ("identity", "associativity"),
    ),
    Planted(
        "Counter difference",
        monoids.UnsoldByCounterDifference(),
        monoids.UnsoldByReceivedAndSold(),
        counters,
        ("identity", "associativity", "commutativity"),
        sound_values=two_counters,
    ),
    Planted(
        "all of them, from False on",
        monoids.AllPassedFromFalse(),
        monoids.AllPassedFromTrue(),
        bool,
        ("identity",),
    ),
    Planted(
        "parity by equality, from False on",
        monoids.ParityByEquality(),
        monoids.ParityByExclusiveOr(),
        bool,
        ("identity",),
    ),
    Planted(
        "longest text, ties by place",
        monoids.LongestWhoeverComesFirst(),
        monoids.LongestThenGreatest(),
        str,
        ("commutativity",),
    ),
    Planted(
        "clamped at each step",
        monoids.BalanceNeverBelowZero(),
        monoids.BalanceClampedAtTheEnd(),
        int,
        ("identity", "associativity"),
    ),
    Planted(
        "fold drops the last of an odd number",
        monoids.SumWhoseFoldDropsTheOdd(),
        monoids.SumWhoseFoldKeepsTheOdd(),
        int,
        ("fold",),
    ),
    Planted(
        "fold averages where combine adds",
        monoids.TotalWhoseFoldAverages(),
        monoids.TotalWhoseFoldAdds(),
        fractions,
        ("fold",),
    ),
    Planted(
        "fold in floats, combine in fractions",
        monoids.ExactTotalFoldedInFloats(),
        monoids.ExactTotalFoldedOverOneDenominator(),
        fractions,
        ("fold",),
    ),
    Planted(
        "fold of nothing raises",
        monoids.LowestWhoseFoldNeedsOne(),
        monoids.LowestWhoseFoldTakesNone(),
        int,
        ("fold",),
    ),
)


def documents() -> SearchStrategy[Doc]:
    from hypothesis import strategies as st

    words = st.text("abcdeirst", min_size=1, max_size=5)
    texts = st.lists(words, max_size=7).map(" ".join)
    return st.builds(Doc, id=st.integers(0, 10**6), text=texts, tags=st.lists(words, max_size=4))


def wordy_documents() -> SearchStrategy[Doc]:
    from hypothesis import strategies as st

    words = st.text("abcdefghijklmnop", min_size=2, max_size=6)
    texts = st.lists(words, min_size=6, max_size=12, unique=True).map(" ".join)
    return st.builds(Doc, id=st.integers(0, 10**6), text=texts, tags=st.just([]))


def visits() -> SearchStrategy[Visit]:
    from hypothesis import strategies as st

    return st.builds(Visit, page=st.sampled_from(["home", "shop"]), second=st.integers(0, 2**31 - 1))


def profiles() -> SearchStrategy[Profile]:
    from hypothesis import strategies as st

    limits = st.dictionaries(st.sampled_from(["megabytes", "seconds"]), st.integers(0, 1000))
    settings = st.dictionaries(st.sampled_from(["free", "paid"]), limits, min_size=1)
    return st.builds(Profile, id=st.integers(0, 99), settings=settings)


def plain_records() -> SearchStrategy[dict[str, int]]:
    from hypothesis import strategies as st

    return st.fixed_dictionaries({"id": st.integers(), "weight": st.integers()})


FUNCTIONS: tuple[Planted, ...] = (
    Planted(
        "appends to its input's list",
        functions.appends_to_its_tags,
        functions.makes_longer_tags,
        Doc,
        ("input untouched",),
    ),
    Planted(
        "assigns to its input's field",
        functions.overwrites_its_text,
        functions.replaces_its_text,
        documents,
        ("input untouched",),
    ),
    Planted(
        "sorts its input's list in place",
        functions.sorts_its_tags_in_place,
        functions.sorts_a_copy_of_its_tags,
        documents,
        ("input untouched",),
    ),
    Planted(
        "generator drains its input's list",
        functions.drains_its_tags,
        functions.goes_back_through_its_tags,
        Doc,
        ("input untouched",),
    ),
    Planted(
        "pops a key of its input",
        functions.pops_the_id,
        functions.splits_off_the_id,
        plain_records,
        ("input untouched",),
    ),
    Planted(
        "changes a nested dict through a shallow copy",
        functions.caps_through_a_shallow_copy,
        functions.caps_in_new_dicts,
        profiles,
        ("input untouched",),
    ),
    Planted(
        "random.shuffle of its input's list",
        functions.shuffles_its_tags,
        functions.shuffles_by_its_id,
        documents,
        ("input untouched", "repeatable", "no effects"),
    ),
    Planted(
        "cache in a global dict",
        functions.tidies_through_a_global_cache,
        functions.tidies_through_lru_cache,
        str,
        ("globals untouched",),
    ),
    Planted(
        "global counter",
        functions.numbers_by_a_global,
        functions.numbers_by_its_id,
        Doc,
        ("repeatable", "globals untouched", "no effects"),
    ),
    Planted(
        "state in a function's attribute",
        functions.counts_its_calls,
        functions.counts_words,
        documents,
        ("globals untouched",),
    ),
    Planted(
        "state in a class's attribute",
        functions.shares_the_longest_by_a_class,
        functions.shares_of_a_fixed_longest,
        str,
        ("globals untouched", "process independent"),
    ),
    Planted(
        "mutable default argument fills up",
        functions.drops_words_seen_by_default,
        functions.drops_words_seen_in_it,
        documents,
        ("repeatable", "globals untouched"),
    ),
    Planted(
        "itertools.count in a global",
        functions.takes_the_next_number,
        functions.takes_its_own_number,
        Doc,
        ("repeatable", "globals untouched"),
    ),
    Planted(
        "generator in a global",
        functions.assigns_groups_in_turn,
        functions.assigns_groups_by_id,
        Doc,
        ("repeatable", "globals untouched"),
    ),
    Planted(
        "callable object remembers its calls",
        functions.TellsRepeats(),
        functions.TellsListed(frozenset({"", "a"})),
        str,
        ("repeatable", "globals untouched"),
    ),
    Planted(
        "time.time in the output",
        functions.stamps_the_time,
        functions.stamps_its_own_time,
        documents,
        ("repeatable", "no effects"),
    ),
    Planted(
        "datetime.now in the output",
        functions.dates_by_now,
        functions.dates_by_its_second,
        visits,
        ("repeatable", "no effects"),
    ),
    Planted(
        "date.today in the output",
        functions.ages_by_today,
        functions.ages_by_the_report_day,
        visits,
        ("no effects",),
    ),
    Planted(
        "clock behind a cache",
        functions.names_the_workers_start,
        functions.names_the_release,
        Doc,
        ("process independent", "no effects"),
    ),
    Planted(
        "run id made at import",
        functions.keys_by_an_id_made_at_import,
        functions.keys_by_a_fixed_namespace,
        Doc,
        ("process independent",),
    ),
    Planted(
        "uuid4 as a key",
        functions.keys_by_uuid4,
        functions.keys_by_uuid5,
        documents,
        ("repeatable", "no effects"),
    ),
    Planted(
        "random.random decides",
        functions.samples_by_random,
        functions.samples_by_a_generator_of_its_id,
        Doc,
        ("repeatable", "no effects"),
    ),
    Planted(
        "random.seed of the shared generator",
        functions.seeds_the_shared_generator,
        functions.seeds_a_generator_of_its_own,
        Doc,
        ("no effects", "globals untouched"),
    ),
    Planted(
        "salt from secrets",
        functions.masks_by_a_random_salt,
        functions.masks_by_a_fixed_salt,
        documents,
        ("repeatable", "no effects"),
    ),
    Planted(
        "joins a set",
        functions.joins_a_set_of_words,
        functions.joins_a_sorted_set_of_words,
        documents,
        ("process independent",),
    ),
    Planted(
        "takes any element of a set",
        functions.picks_any_word,
        functions.picks_the_least_word,
        documents,
        ("process independent",),
    ),
    Planted(
        "ties by a set's order",
        functions.finds_the_commonest_of_a_set,
        functions.finds_the_commonest_by_place,
        documents,
        ("process independent",),
    ),
    Planted(
        "adds floats in a set's order",
        functions.weighs_a_set_of_words,
        functions.weighs_words_exactly,
        wordy_documents,
        ("process independent",),
    ),
    Planted(
        "numbers a set at import",
        functions.labels_by_a_set,
        functions.labels_by_a_sorted_set,
        documents,
        ("process independent",),
    ),
    Planted(
        "hash of a str",
        functions.shards_by_hash,
        functions.shards_by_crc,
        documents,
        ("process independent",),
    ),
    Planted(
        "sorts by hash",
        functions.orders_words_by_hash,
        functions.orders_words_by_crc,
        documents,
        ("process independent",),
    ),
    Planted(
        "sorts by id",
        functions.orders_words_by_address,
        functions.orders_words_by_length,
        wordy_documents,
        ("repeatable", "process independent"),
    ),
    Planted(
        "id of its input in the output",
        functions.keys_by_address,
        functions.keys_by_number,
        documents,
        ("repeatable", "process independent", "no effects"),
    ),
    Planted(
        "address in a default repr",
        functions.lists_words_by_their_bare_repr,
        functions.lists_words_by_a_repr_of_fields,
        documents,
        ("repeatable", "process independent"),
    ),
    Planted(
        "reads the environment",
        functions.places_by_environment,
        functions.places_by_a_constant,
        Doc,
        ("no effects",),
    ),
    Planted(
        "writes the environment",
        functions.quietens_a_library,
        functions.leaves_libraries_alone,
        documents,
        ("no effects", "globals untouched"),
    ),
    Planted(
        "working directory in the output",
        functions.resolves_against_the_working_directory,
        functions.resolves_against_a_given_root,
        Doc,
        ("no effects",),
    ),
    Planted(
        "reads a file",
        functions.counts_words_that_a_file_has,
        functions.counts_words_that_are_given,
        documents,
        ("no effects",),
    ),
    Planted(
        "writes a file",
        functions.logs_to_a_file,
        functions.logs_nothing,
        documents,
        ("no effects",),
    ),
    Planted(
        "process id in the output",
        functions.signs_by_process,
        functions.signs_by_name,
        Doc,
        ("process independent", "no effects"),
    ),
    Planted(
        "host name in the output",
        functions.signs_by_host,
        functions.signs_by_table,
        Doc,
        ("no effects",),
    ),
    Planted(
        "network in a branch seldom taken",
        functions.fetches_one_in_a_million,
        functions.marks_one_in_a_million,
        documents,
        ("no effects",),
    ),
    Planted(
        "another program, by a helper",
        functions.converts_the_long_by_a_program,
        functions.converts_the_long_by_a_codec,
        documents,
        ("no effects",),
    ),
    Planted(
        "removes files in a branch seldom taken",
        functions.sweeps_up_after_the_last,
        functions.leaves_sweeping_to_the_runner,
        documents,
        ("no effects",),
    ),
)


def amounts() -> SearchStrategy[int]:
    from hypothesis import strategies as st

    return st.integers(-1000, 1000)


def amounts_with_gaps() -> SearchStrategy[int | None]:
    from hypothesis import strategies as st

    return st.none() | amounts()


def names() -> SearchStrategy[str]:
    from hypothesis import strategies as st

    return st.sampled_from(["", " ", "Ann", "bob", "Cy ", "dora", "Ed\n", "fay", "Gus"])


def steps() -> SearchStrategy[tuple[int, int]]:
    from hypothesis import strategies as st

    return st.tuples(amounts(), amounts())


def lines() -> SearchStrategy[str]:
    from hypothesis import strategies as st

    return st.text("abc \n", max_size=6)


def vectors() -> SearchStrategy[list[float]]:
    from hypothesis import strategies as st

    return st.lists(st.sampled_from([-2.0, 0.0, 0.5, 1.0, 3.0]), min_size=3, max_size=3)


BATCHES: tuple[Planted, ...] = (
    Planted(
        "scales by the batch's greatest",
        batches.scales_by_the_batchs_greatest,
        batches.scales_by_a_constant,
        amounts,
        ("batch invariance",),
    ),
    Planted(
        "softmax over the batch",
        batches.weighs_by_softmax_over_the_batch,
        batches.weighs_by_sigmoid,
        amounts,
        ("batch invariance",),
    ),
    Planted(
        "fills gaps by the batch's mean",
        batches.fills_gaps_by_the_batchs_mean,
        batches.fills_gaps_by_a_constant,
        amounts_with_gaps,
        ("batch invariance",),
    ),
    Planted(
        "divides by the length of the batch",
        batches.shares_the_cost_among_the_batch,
        batches.costs_by_length,
        str,
        ("batch invariance",),
    ),
    Planted(
        "filters the empty",
        batches.filters_the_empty,
        batches.refuses_the_empty,
        names,
        ("batch length", "batch invariance"),
    ),
    Planted(
        "drops repeats within the batch",
        batches.drops_repeats,
        batches.keeps_repeats,
        names,
        ("batch length", "batch invariance"),
    ),
    Planted(
        "marks repeats within the batch",
        batches.marks_repeats,
        batches.marks_by_content,
        names,
        ("batch invariance",),
    ),
    Planted(
        "sorts the batch",
        batches.sorts_the_batch,
        batches.sorts_within_each,
        names,
        ("batch invariance",),
    ),
    Planted(
        "rank within the batch",
        batches.ranks_in_the_batch,
        batches.ranks_on_a_fixed_scale,
        int,
        ("batch invariance",),
    ),
    Planted(
        "index in the batch as a number",
        batches.numbers_by_index,
        batches.numbers_by_id,
        Doc,
        ("batch invariance",),
    ),
    Planted(
        "labels by first sight in the batch",
        batches.encodes_labels_by_first_sight,
        batches.encodes_labels_by_crc,
        names,
        ("batch invariance",),
    ),
    Planted(
        "carries the element before over",
        batches.steps_from_the_one_before,
        batches.steps_from_its_own_past,
        steps,
        ("batch invariance",),
    ),
    Planted(
        "pads to the longest of the batch",
        batches.pads_to_the_longest,
        batches.pads_to_a_width,
        names,
        ("batch invariance",),
    ),
    Planted(
        "returns a header too",
        batches.begins_with_a_header,
        batches.has_no_header,
        str,
        ("batch length", "batch invariance"),
    ),
    Planted(
        "pops from the list that it is given",
        batches.takes_the_batch_apart,
        batches.reads_the_batch,
        str,
        ("input untouched",),
    ),
    Planted(
        "normalises its elements in place",
        batches.normalises_vectors_in_place,
        batches.makes_normalised_vectors,
        vectors,
        ("input untouched",),
    ),
    Planted(
        "noise from one seed for each batch",
        batches.jitters_from_one_seed,
        batches.jitters_from_each_value,
        int,
        ("batch invariance",),
    ),
    Planted(
        "shuffles the batch from one seed",
        batches.shuffles_from_one_seed,
        batches.shuffles_words_within_each,
        documents,
        ("batch invariance",),
    ),
    Planted(
        "leaves off what is beyond four",
        batches.leaves_off_beyond_four,
        batches.refuses_more_than_four,
        names,
        ("batch length", "batch invariance"),
    ),
    Planted(
        "number of the batch in the output",
        batches.tags_with_the_batchs_number,
        batches.tags_with_the_length,
        str,
        ("batch invariance", "repeatable", "globals untouched"),
    ),
    Planted(
        "closures that all see the last element",
        batches.calls_late_bound_closures,
        batches.calls_bound_closures,
        str,
        ("batch invariance",),
    ),
    Planted(
        "joins the batch by line breaks and splits it again",
        batches.translates_all_lines_at_once,
        batches.translates_one_by_one,
        lines,
        ("batch length", "batch invariance"),
    ),
    Planted(
        "compares with the batch's first",
        batches.compares_with_the_first,
        batches.compares_with_a_query,
        vectors,
        ("batch invariance",),
    ),
)


def rows_of_few_keys() -> SearchStrategy[Row]:
    from hypothesis import strategies as st

    return st.builds(Row, key=st.integers(0, 2), text=st.text("abc", max_size=3))


SINKS: tuple[Planted, ...] = (
    Planted(
        "function appends each record to a file",
        sinks.row_appender,
        sinks.row_filer,
        Row,
        ("written twice",),
    ),
    Planted(
        "function counts its calls in a file",
        sinks.row_counter,
        sinks.row_lister,
        Row,
        ("written twice",),
    ),
    Planted(
        "function lets the last of a key win",
        sinks.key_overwriter,
        sinks.key_greatest,
        rows_of_few_keys,
        ("order of partitions",),
    ),
    Planted(
        "function keeps lines in order of arrival",
        sinks.line_adder,
        sinks.line_sorter,
        Row,
        ("order of partitions",),
    ),
    Planted(
        "parts named by uuid4",
        sinks.NamesPartsByUuid,
        sinks.FolderSink,
        Row,
        ("written twice", "order of partitions", "crash before commit"),
    ),
    Planted(
        "parts named by order of arrival",
        sinks.NamesPartsByArrival,
        sinks.NamesPartsByStart,
        Row,
        ("written twice", "order of partitions"),
    ),
    Planted(
        "parts of one size share a name",
        sinks.NamesPartsByTheirSize,
        sinks.NamesPartsBySplitAndSize,
        Row,
        ("order of partitions",),
    ),
    Planted(
        "writes where readers look",
        sinks.WritesInPlainSight,
        sinks.StagesInADottedFolder,
        Row,
        ("invisible before commit",),
    ),
    Planted(
        "writes a schema where readers look",
        sinks.DescribesItselfOnWriting,
        sinks.DescribesItselfOnCommit,
        Row,
        ("invisible before commit",),
    ),
    Planted(
        "time in every record",
        sinks.StampsItsRows,
        sinks.NumbersItsRows,
        Row,
        ("written twice", "order of partitions"),
    ),
    Planted(
        "time of the commit in its marker",
        sinks.MarksTheHourOfSuccess,
        sinks.MarksSuccess,
        Row,
        ("commit twice",),
    ),
    Planted(
        "temporary name in the gzip header",
        sinks.GzipsWithAName,
        sinks.GzipsWithoutAName,
        Row,
        ("written twice", "order of partitions"),
    ),
    Planted(
        "commit appends to the manifest",
        sinks.AppendsToItsManifest,
        sinks.ReplacesItsManifestOfLines,
        Row,
        ("commit twice",),
    ),
    Planted(
        "stale parts stay",
        sinks.KeepsStaleParts,
        sinks.FolderSink,
        Row,
        ("fewer splits",),
    ),
    Planted(
        "second commit finds nothing to move",
        sinks.MovesStagedPartsOnly,
        sinks.CopiesWhatIsNotThere,
        Row,
        ("commit twice",),
    ),
    Planted(
        "second commit empties the folder",
        sinks.EmptiesTheFolderFirst,
        sinks.FolderSink,
        Row,
        ("commit twice",),
    ),
    Planted(
        "commit moves an empty partition's part",
        sinks.MovesEmptyPartsToo,
        sinks.FolderSink,
        Row,
        ("empty partition",),
    ),
    Planted(
        "write needs a first record",
        sinks.LooksAtTheFirstRow,
        sinks.LooksAtTheFirstRowIfAny,
        Row,
        ("empty partition",),
    ),
    Planted(
        "appends to what an earlier attempt staged",
        sinks.ResumesStagedParts,
        sinks.StartsStagedPartsAnew,
        Row,
        ("written twice", "crash before commit"),
    ),
    Planted(
        "publishes what a broken-off write left",
        sinks.PublishesAllThatIsStaged,
        sinks.PublishesAllThatIsNamed,
        Row,
        ("crash before commit",),
    ),
    Planted(
        "drops records that an earlier partition had",
        sinks.ForgetsRowsSeenBefore,
        sinks.ForgetsRepeatsWithinASplit,
        Row,
        ("written twice", "order of partitions"),
    ),
    Planted(
        "adds to the part that is published",
        sinks.AddsToThePublishedPart,
        sinks.FolderSink,
        Row,
        ("written twice", "fewer splits", "run again"),
    ),
    Planted(
        "commit appends the parts to one file",
        sinks.AppendsPartsToOneFile,
        sinks.OneFile,
        Row,
        ("commit twice",),
    ),
    Planted(
        "one file in order of arrival",
        sinks.JoinsPartsByArrival,
        sinks.JoinsNamedParts,
        Row,
        ("order of partitions",),
    ),
    Planted(
        "one file of all parts that lie there",
        sinks.JoinsAllKeptParts,
        sinks.OneFile,
        Row,
        ("fewer splits",),
    ),
)
