"""The parts of the harness that decide: verdicts, bars, schedules, definitions. `python3 -m unittest` in loadtest/."""

import random
import unittest

from harness import bars, bodies, scenario, verdict
from harness.load import Happening
from harness.machine import command
from harness.report import text
from harness.scenarios import SCENARIOS
from harness.soak import CHURN, FAULTS, ROUND_SECS


def result(**fields):
    return {"statuses": {"200": 10}, "failures": {}, "bad": 0, "errors": 0, "hung": 0, **fields}


class Verdicts(unittest.TestCase):
    def test_only_what_failed_before_the_first_byte_is_lost(self):
        failures = {"refused": 1, "before_first_byte": 2, "late_first_byte": 4, "cut": 8, "error_event": 16}
        seen = result(statuses={"200": 10, "502": 32}, failures=failures)
        self.assertEqual(verdict.lost(seen), 1 + 2 + 4 + 32)
        self.assertEqual(verdict.silent(seen), 8)

    def test_a_slope_is_found_despite_noise_and_outliers(self):
        noise = random.Random(1)
        points = [(t, 1000 + 3 * t + noise.uniform(-5, 5)) for t in range(100)]
        points[60] = (60, 100_000)
        self.assertAlmostEqual(verdict.slope(points), 3, delta=0.2)
        self.assertAlmostEqual(verdict.growth(points), 150, delta=10)

    def test_a_level_with_noise_is_flat_and_a_leak_is_not(self):
        noise = random.Random(2)
        level = [(t, 20_000 + noise.uniform(-300, 300)) for t in range(360)]
        leak = [(t, value + 10 * t) for t, value in level]
        self.assertTrue(verdict.is_flat(level, 100))
        self.assertFalse(verdict.is_flat(leak, 100))

    def test_growth_while_warming_up_is_forgiven(self):
        points = [(t, min(t, 40) * 100) for t in range(100)]
        self.assertTrue(verdict.is_flat(points, 0))

    def test_many_points_are_thinned(self):
        self.assertAlmostEqual(verdict.slope([(t, 2 * t) for t in range(5000)]), 2)

    def test_no_points_are_no_growth(self):
        self.assertEqual(verdict.growth([]), 0)

    def test_failures_before_the_first_answer_belong_to_the_start(self):
        slices = [{"ok": 0, "failed": 9}, {"ok": 3, "failed": 1}, {"ok": 5, "failed": 0}, {"ok": 5, "failed": 2}]
        self.assertEqual(verdict.later_failures(slices), 2)


class Happenings(unittest.TestCase):
    def test_once_and_repeated(self):
        seen = []
        once = Happening(1, lambda: seen.append("once"))
        often = Happening(2, lambda: seen.append("often"), every=1, until=4)
        for tenth in range(100):
            once.run(tenth / 10)
            often.run(tenth / 10)
        self.assertEqual(seen, ["once", "often", "often", "often"])

    def test_a_round_of_faults_leaves_all_well(self):
        state = {}
        undone = {"kill": "start", "freeze": "thaw"}
        for second, action, mock, values in sorted(FAULTS):
            self.assertLess(second, CHURN[0])
            if action in undone.values() or (action == "script" and not values):
                self.assertIn(mock, state, f"nothing to undo for {mock}")
                del state[mock]
            else:
                self.assertEqual(state, {}, "two endpoints of three are broken at once")
                state[mock] = action
        self.assertEqual(state, {})
        self.assertLess(CHURN[1], ROUND_SECS)


class Definitions(unittest.TestCase):
    def test_bodies_have_the_size_that_is_asked_for(self):
        for size in (1024, 10_240):
            self.assertEqual(len(bodies.sized("one-route", size)), size)
            self.assertEqual(len(bodies.sized("one-route", size, stream=True)), size)

    def test_schedules_are_written_as_gwload_reads_them(self):
        self.assertEqual(scenario.schedule(250, 10), "250.0")
        self.assertEqual(scenario.schedule([(300, 0.5), (3000, 0.5)], 10), "300.0@5.000,3000.0@5.000")

    def test_every_threshold_has_one_bound_and_every_expert_its_mocks(self):
        for name, one in SCENARIOS.items():
            for check in one.checks:
                self.assertNotEqual(check.most is None, check.least is None, f"{name}: {check.name}")
            for mocks in one.experts.values():
                self.assertLessEqual(set(mocks), set(one.mocks), name)

    def test_a_scenario_without_answers_holds_nothing(self):
        nothing = {"wall_s": 1, "rps": 0, "slices": [], "started": 0, "ok": 0, "cpu_s": 0, "not_started": 0}
        for check in SCENARIOS["cold-start"].checks[3:]:
            self.assertIsNone(check.read({"start": result(**nothing)}, None))


class Commands(unittest.TestCase):
    def test_places_are_left_out_of_the_command_to_repeat(self):
        told = command(["hop", "--bin", "/somewhere", "--rounds", "5", "--results=/elsewhere"])
        self.assertEqual(told, "python3 loadtest/run.py hop --rounds 5")


class Bars(unittest.TestCase):
    def test_words_say_how_far_it_got(self):
        bar = bars.Bar("x", 2.0, 1.5, bars.figure("f"))
        words = [bar.verdict({"hop": {"figures": {"f": {"median": m, "worst": m}}}})[1] for m in (1.5, 1.9, 2.1)]
        self.assertEqual(words, ["aim reached", "reached", "not reached"])
        self.assertEqual(bar.verdict({})[1], "not measured")

    def test_a_lost_request_misses_the_bar(self):
        results = {"scenario-dead-expert": {"figures": {"lost: killed": 0, "lost: reset": 1, "other": 9}}}
        self.assertIn("requests lost when one of three endpoints fails", [bar.measure for bar in bars.missed(results)])

    def test_a_report_without_results_says_so_in_every_row(self):
        self.assertEqual(text({}).count("not measured"), len(bars.BARS))


if __name__ == "__main__":
    unittest.main()
