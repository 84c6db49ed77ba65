//! Which experts to host and which of them gets which category: the mapping as a mixed-integer linear programme.
//!
//! ```text
//! max  sum_{c,e} pi_c (w(c,e) - lambda a_e / max a) x(c,e)
//! s.t. sum_e x(c,e) = 1 for all c;   x(c,e) <= y(e);   sum_e |e| y(e) <= B;   sum_{c,e} pi_c a_e x(c,e) <= A
//! ```
//!
//! `x(c,e)` says that expert e gets category c, `y(e)` that it is hosted. Without lambda and without A, one large
//! expert tends to win everything as soon as it fits into B.

use microlp::{ComparisonOp, OptimizationDirection, Problem, SolveOutcome, Variable};

/// What to choose from.
#[derive(Clone, Debug, PartialEq)]
pub struct Programme {
    /// `pi_c`: how often each category occurs; only proportions matter.
    pub shares: Vec<f64>,
    /// w(c,e) by category and expert.
    pub skills: Vec<Vec<f64>>,
    /// |e|: what hosting an expert takes of the budget, such as billions of parameters.
    pub sizes: Vec<f64>,
    /// `a_e`: what a call of an expert costs, such as billions of active parameters.
    pub costs: Vec<f64>,
    /// B: the most that all hosted experts may take together.
    pub hosting_budget: Option<f64>,
    /// A: the most that a call may cost on the mean.
    pub mean_cost_cap: Option<f64>,
    /// lambda: score points given up for the dearest expert's cost.
    pub price: f64,
}

/// The best mapping.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// The expert of each category.
    pub experts: Vec<usize>,
    /// Mean score over the categories, without the price.
    pub score: f64,
    /// Mean cost of a call.
    pub mean_cost: f64,
    /// What the experts that got a category take of the budget.
    pub hosted: f64,
}

/// Why there is no mapping.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProgrammeError {
    /// The numbers do not fit together.
    #[error("{0}")]
    Shape(&'static str),
    /// No choice of experts keeps to the limits.
    #[error(
        "no choice of experts keeps to the hosting budget and the cap on the mean cost; raise one of them"
    )]
    Infeasible,
    /// The solver gave up.
    #[error("the solver failed: {0}")]
    Solver(String),
}

impl Programme {
    /// Solves the programme exactly.
    ///
    /// # Errors
    /// [`ProgrammeError`].
    pub fn solve(&self) -> Result<Assignment, ProgrammeError> {
        self.check()?;
        let total: f64 = self.shares.iter().sum();
        let dearest = self.costs.iter().copied().fold(0.0, f64::max).max(f64::MIN_POSITIVE);
        let mut problem = Problem::new(OptimizationDirection::Maximize);
        let hosted: Vec<Variable> = self.sizes.iter().map(|_| problem.add_binary_var(0.0)).collect();
        let mut given: Vec<Vec<Variable>> = Vec::with_capacity(self.shares.len());
        for (share, skills) in self.shares.iter().zip(&self.skills) {
            let worth =
                skills.iter().zip(&self.costs).map(|(w, a)| share / total * (w - self.price * a / dearest));
            // A continuous x is enough: once y is whole and there is no cap, some best x is whole too.
            let whole = self.mean_cost_cap.is_some();
            let variable = |worth| {
                if whole { problem.add_binary_var(worth) } else { problem.add_var(worth, (0.0, 1.0)) }
            };
            given.push(worth.map(variable).collect());
        }
        for row in &given {
            problem.add_constraint(row.iter().map(|&x| (x, 1.0)), ComparisonOp::Eq, 1.0);
            for (&x, &y) in row.iter().zip(&hosted) {
                problem.add_constraint([(x, 1.0), (y, -1.0)], ComparisonOp::Le, 0.0);
            }
        }
        if let Some(budget) = self.hosting_budget {
            let sizes = hosted.iter().zip(&self.sizes).map(|(&y, &size)| (y, size));
            problem.add_constraint(sizes, ComparisonOp::Le, budget);
        }
        if let Some(cap) = self.mean_cost_cap {
            let costs = given.iter().zip(&self.shares).flat_map(|(row, share)| {
                row.iter().zip(&self.costs).map(move |(&x, cost)| (x, share / total * cost))
            });
            problem.add_constraint(costs, ComparisonOp::Le, cap);
        }
        let outcome = problem.solve().map_err(|error| match error {
            microlp::Error::Infeasible => ProgrammeError::Infeasible,
            other => ProgrammeError::Solver(other.to_string()),
        })?;
        let SolveOutcome::Solution(solution) = outcome else {
            return Err(ProgrammeError::Solver("it ended before it had a solution".to_owned()));
        };
        let chosen = |row: &Vec<Variable>| {
            let mut best = 0;
            for (expert, &x) in row.iter().enumerate() {
                if solution[x] > solution[row[best]] {
                    best = expert;
                }
            }
            best
        };
        Ok(self.assignment(given.iter().map(chosen).collect()))
    }

    fn check(&self) -> Result<(), ProgrammeError> {
        let experts = self.sizes.len();
        let number = |x: &f64| x.is_finite() && *x >= 0.0;
        let problem = if experts == 0 || self.shares.is_empty() {
            "there is nothing to map: give at least one category and one expert"
        } else if self.costs.len() != experts || self.skills.iter().any(|row| row.len() != experts) {
            "sizes, costs and every category's skills must have one number for each expert"
        } else if self.skills.len() != self.shares.len() {
            "there must be skills for every category"
        } else if !self.shares.iter().all(number) || self.shares.iter().sum::<f64>() <= 0.0 {
            "the categories' shares must not be negative and must not all be 0"
        } else if !self.sizes.iter().chain(&self.costs).chain([&self.price]).all(number) {
            "sizes, costs and the price must be numbers that are not negative"
        } else if !self.skills.iter().flatten().all(|w| w.is_finite()) {
            "skills must be finite numbers"
        } else {
            return Ok(());
        };
        Err(ProgrammeError::Shape(problem))
    }

    /// What a choice of experts comes to.
    fn assignment(&self, experts: Vec<usize>) -> Assignment {
        let total: f64 = self.shares.iter().sum();
        let over = |value: &dyn Fn(usize, usize) -> f64| -> f64 {
            let terms =
                experts.iter().enumerate().map(|(category, &e)| self.shares[category] * value(category, e));
            terms.sum::<f64>() / total
        };
        let used = (0..self.sizes.len()).filter(|expert| experts.contains(expert));
        Assignment {
            score: over(&|category, expert| self.skills[category][expert]),
            mean_cost: over(&|_, expert| self.costs[expert]),
            hosted: used.map(|expert| self.sizes[expert]).sum(),
            experts,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every way to give the categories to experts.
    fn brute_force(programme: &Programme) -> Option<f64> {
        let (c, e) = (programme.shares.len(), programme.sizes.len());
        let dearest = programme.costs.iter().copied().fold(0.0, f64::max).max(f64::MIN_POSITIVE);
        (0..e.pow(c as u32))
            .map(|code| programme.assignment((0..c).map(|i| code / e.pow(i as u32) % e).collect()))
            .filter(|a| programme.hosting_budget.is_none_or(|b| a.hosted <= b + 1e-9))
            .filter(|a| programme.mean_cost_cap.is_none_or(|cap| a.mean_cost <= cap + 1e-9))
            .map(|a| a.score - programme.price * a.mean_cost / dearest)
            .max_by(f64::total_cmp)
    }

    fn programmes() -> impl Strategy<Value = Programme> {
        (1_usize..=4, 1_usize..=4).prop_flat_map(|(c, e)| {
            (
                prop::collection::vec(1_u8..=9, c),
                prop::collection::vec(prop::collection::vec(0_u8..=20, e), c),
                prop::collection::vec(1_u8..=9, e),
                prop::collection::vec(1_u8..=9, e),
                prop::option::of(3_u8..=20),
                prop::option::of(2_u8..=9),
                0_u8..=10,
            )
                .prop_map(|(shares, skills, sizes, costs, budget, cap, price)| Programme {
                    shares: shares.into_iter().map(f64::from).collect(),
                    skills: skills
                        .into_iter()
                        .map(|row| row.into_iter().map(|w| f64::from(w) / 20.0).collect())
                        .collect(),
                    sizes: sizes.into_iter().map(f64::from).collect(),
                    costs: costs.into_iter().map(f64::from).collect(),
                    // Half numbers, so that rounding never decides what fits.
                    hosting_budget: budget.map(|b| f64::from(b) + 0.5),
                    mean_cost_cap: cap.map(|cap| f64::from(cap) + 0.001),
                    price: f64::from(price) / 20.0,
                })
        })
    }

    proptest! {
        #[test]
        fn the_programme_finds_what_brute_force_finds(programme in programmes()) {
            let wanted = brute_force(&programme);
            match programme.solve() {
                Ok(found) => {
                    let dearest = programme.costs.iter().copied().fold(0.0, f64::max);
                    let value = found.score - programme.price * found.mean_cost / dearest;
                    prop_assert!((value - wanted.unwrap_or(f64::NAN)).abs() < 1e-6, "{found:?} {wanted:?}");
                    prop_assert!(programme.hosting_budget.is_none_or(|b| found.hosted <= b));
                    prop_assert!(programme.mean_cost_cap.is_none_or(|cap| found.mean_cost <= cap + 1e-6));
                }
                Err(error) => prop_assert_eq!((error, wanted), (ProgrammeError::Infeasible, None)),
            }
        }
    }

    /// Two specialists of 7 against a generalist of 70 that is a little better at both.
    fn specialists() -> Programme {
        Programme {
            shares: vec![1.0, 1.0],
            skills: vec![vec![0.8, 0.3, 0.82], vec![0.3, 0.8, 0.82]],
            sizes: vec![7.0, 7.0, 70.0],
            costs: vec![7.0, 7.0, 70.0],
            hosting_budget: None,
            mean_cost_cap: None,
            price: 0.0,
        }
    }

    #[test]
    fn budget_price_and_cap_each_choose_the_specialists() {
        assert_eq!(specialists().solve().unwrap().experts, [2, 2]);
        let budget = Programme { hosting_budget: Some(20.0), ..specialists() }.solve().unwrap();
        let price = Programme { price: 0.1, ..specialists() }.solve().unwrap();
        let cap = Programme { mean_cost_cap: Some(10.0), ..specialists() }.solve().unwrap();
        assert_eq!(budget.experts, [0, 1]);
        assert_eq!((price.experts, cap.experts), (vec![0, 1], vec![0, 1]));
        assert!((budget.hosted - 14.0).abs() < 1e-9 && (budget.mean_cost - 7.0).abs() < 1e-9);
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let wrong = |change: fn(&mut Programme)| {
            let mut programme = specialists();
            change(&mut programme);
            programme.solve().unwrap_err().to_string()
        };
        assert!(wrong(|p| p.costs.clear()).contains("one number for each expert"));
        assert!(wrong(|p| p.shares = vec![0.0, 0.0]).contains("shares"));
        assert!(wrong(|p| p.price = f64::NAN).contains("price"));
        assert!(wrong(|p| p.hosting_budget = Some(1.0)).contains("raise one of them"));
    }
}
