use proptest::prelude::*;

use super::*;

const WAIT: Duration = Duration::from_millis(1);
const LIMITS: Limits = Limits { rows: 4, tokens: 256, wait: WAIT };

fn queue(tokens: &[usize]) -> Vec<Waiting> {
    tokens.iter().map(|&tokens| Waiting { tokens, age: Duration::ZERO }).collect()
}

fn spare(tokens: &[usize]) -> Next {
    next(queue(tokens), &LIMITS, true)
}

#[test]
fn an_idle_session_takes_a_lone_prompt_at_once() {
    assert_eq!(spare(&[20]), Next::Run(vec![0]));
    assert_eq!(spare(&[]), Next::Sleep);
}

#[test]
fn without_spare_capacity_an_open_batch_waits_until_its_oldest_has_waited_enough() {
    let mut waiting = queue(&[20, 21]);
    assert_eq!(next(waiting.clone(), &LIMITS, false), Next::Wait(WAIT));
    waiting[0].age = WAIT / 4;
    assert_eq!(next(waiting.clone(), &LIMITS, false), Next::Wait(WAIT * 3 / 4));
    waiting[0].age = WAIT;
    assert_eq!(next(waiting, &LIMITS, false), Next::Run(vec![0, 1]));
}

#[test]
fn a_full_batch_does_not_wait() {
    assert_eq!(next(queue(&[20, 20, 20, 20, 20]), &LIMITS, false), Next::Run(vec![0, 1, 2, 3]));
    assert_eq!(next(queue(&[100, 100, 100]), &LIMITS, false), Next::Run(vec![0, 1]), "tokens are full");
    assert_eq!(next(queue(&[300, 20]), &LIMITS, false), Next::Run(vec![0]), "too long for any company");
}

#[test]
fn prompts_of_unlike_length_do_not_share_a_pass() {
    assert_eq!(spare(&[20, 120, 22, 28, 29]), Next::Run(vec![0, 2, 3]));
    assert_eq!(spare(&[100, 125, 80, 90]), Next::Run(vec![0, 1]), "125 with 100, then 80 is too short");
}

#[test]
fn a_long_prompt_that_does_not_fit_leaves_room_for_a_short_one_behind_it() {
    let limits = Limits { tokens: 100, ..LIMITS };
    assert_eq!(next(queue(&[45, 52, 44]), &limits, true), Next::Run(vec![0, 2]));
}

fn any_queue() -> impl Strategy<Value = Vec<Waiting>> {
    let waiting = (1_usize..300, 0_u64..3000)
        .prop_map(|(tokens, age)| Waiting { tokens, age: Duration::from_micros(age) });
    prop::collection::vec(waiting, 0..60)
}

fn any_limits() -> impl Strategy<Value = Limits> {
    (1_usize..20, 1_usize..2000, 0_u64..2000).prop_map(|(rows, tokens, wait)| Limits {
        rows,
        tokens,
        wait: Duration::from_micros(wait),
    })
}

proptest! {
    #[test]
    fn a_batch_keeps_the_limits_and_is_led_by_the_oldest(
        queue in any_queue(), limits in any_limits(), spare: bool,
    ) {
        match next(queue.clone(), &limits, spare) {
            Next::Sleep => prop_assert!(queue.is_empty()),
            Next::Wait(patience) => {
                prop_assert!(!spare && !patience.is_zero());
                prop_assert_eq!(patience + queue[0].age, limits.wait);
            }
            Next::Run(places) => {
                prop_assert_eq!(places[0], 0);
                prop_assert!(places.windows(2).all(|pair| pair[0] < pair[1]));
                prop_assert!(places.len() <= limits.rows);
                let lengths: Vec<_> = places.iter().map(|&place| queue[place].tokens).collect();
                let (low, high) = (*lengths.iter().min().unwrap(), *lengths.iter().max().unwrap());
                prop_assert!(places.len() == 1 || places.len() * high <= limits.tokens);
                prop_assert!(high - low <= SLACK.max(low / 4));
            }
        }
    }

    #[test]
    fn everything_is_taken_in_the_end_and_the_oldest_always_next(
        mut queue in any_queue(), limits in any_limits(),
    ) {
        for waiting in &mut queue {
            waiting.age = limits.wait;
        }
        let mut left: Vec<(usize, Waiting)> = queue.into_iter().enumerate().collect();
        while !left.is_empty() {
            let Next::Run(places) = next(left.iter().map(|(_, w)| *w), &limits, false) else {
                return Err(TestCaseError::fail("prompts that have waited enough were kept waiting"));
            };
            let oldest = left.iter().map(|(arrival, _)| *arrival).min();
            prop_assert_eq!(Some(left[places[0]].0), oldest);
            let mut place = 0;
            left.retain(|_| { place += 1; !places.contains(&(place - 1)) });
        }
    }

    #[test]
    fn of_equal_length_nobody_overtakes(count in 1_usize..40, tokens in 1_usize..300, limits in any_limits()) {
        let waiting = vec![Waiting { tokens, age: Duration::ZERO }; count];
        let Next::Run(places) = next(waiting, &limits, true) else {
            return Err(TestCaseError::fail("spare capacity was not used"));
        };
        prop_assert!(places.iter().copied().eq(0..places.len()));
    }
}
