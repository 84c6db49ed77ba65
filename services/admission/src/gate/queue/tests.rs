use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::*;

const FAR: u64 = u64::MAX;

fn queue(most: u32, per_flow: u32) -> Queue<u32> {
    Queue::new(&GateConfig { queue: most, queue_per_key: Some(per_flow), ..GateConfig::default() })
}

fn arrival(flow: u64, class: Priority, deadline_us: u64) -> Arrival {
    Arrival { flow, class, deadline_us }
}

fn standard(flow: u64) -> Arrival {
    arrival(flow, Priority::Standard, FAR)
}

fn pop(queue: &mut Queue<u32>, now_us: u64) -> Option<u32> {
    queue.pop(now_us, &mut Vec::new())
}

#[test]
fn a_key_with_ten_thousand_waiting_delays_another_by_one() {
    let mut queue = queue(20_000, 10_000);
    for i in 0..10_000 {
        queue.enqueue(standard(1), 0, || i).unwrap();
    }
    queue.enqueue(standard(2), 0, || 77_777).unwrap();
    assert_eq!([pop(&mut queue, 1), pop(&mut queue, 1)], [Some(0), Some(77_777)]);
    // A flow that comes back waits for its turn behind the others, and they for it.
    queue.enqueue(standard(2), 0, || 77_778).unwrap();
    assert_eq!([pop(&mut queue, 1), pop(&mut queue, 1)], [Some(1), Some(77_778)]);
}

#[test]
fn classes_share_as_they_weigh() {
    let mut queue = queue(1000, 1000);
    for class in Priority::ALL {
        for _ in 0..100 {
            queue.enqueue(arrival(1, class, FAR), 0, || class as u32).unwrap();
        }
    }
    let mut counts = BTreeMap::new();
    for _ in 0..42 {
        *counts.entry(pop(&mut queue, 1)).or_insert(0) += 1;
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [2, 8, 32]);
}

#[test]
fn a_full_queue_makes_room_for_the_more_urgent_only() {
    let mut queue = queue(4, 2);
    for (payload, flow, class) in [
        (0, 1, Priority::Batch),
        (1, 1, Priority::Batch),
        (2, 2, Priority::Batch),
        (3, 1, Priority::Standard),
    ] {
        assert_eq!(queue.enqueue(arrival(flow, class, FAR), 0, || payload).unwrap().1, None);
    }
    let mut enqueue = |flow, class| queue.enqueue(arrival(flow, class, FAR), 0, || 9).map(|(_, out)| out);
    assert_eq!(enqueue(3, Priority::Batch), Err(Reason::Full));
    assert_eq!(enqueue(1, Priority::Batch), Err(Reason::FlowFull));
    assert_eq!(enqueue(1, Priority::Standard), Ok(Some(2)), "the newest of the last flow");
    assert_eq!(enqueue(4, Priority::Interactive), Ok(Some(1)));
    assert_eq!(enqueue(4, Priority::Interactive), Ok(Some(0)));
    assert_eq!(enqueue(5, Priority::Standard), Err(Reason::Full));
    assert_eq!(enqueue(5, Priority::Interactive), Ok(Some(9)));
    assert_eq!(queue.waiting(), 4);
}

#[test]
fn who_cannot_be_served_in_time_is_told_at_once() {
    let mut queue = queue(1000, 1000);
    for i in 0..40 {
        queue.enqueue(standard(i), 0, || 0).unwrap();
    }
    assert_eq!(queue.estimated_wait(Priority::Standard), None);
    // One grant in ten milliseconds.
    for i in 1..=20 {
        assert!(pop(&mut queue, i * 10_000).is_some());
    }
    let now = 200_000;
    assert_eq!(queue.estimated_wait(Priority::Standard), Some(Duration::from_millis(200)));
    assert_eq!(queue.time_to_drain(), Some(Duration::from_millis(200)));
    let mut enqueue = |flow, deadline| {
        queue.enqueue(arrival(flow, Priority::Standard, now + deadline), now, || 0).map(|_| ())
    };
    assert_eq!(enqueue(90, 150_000), Err(Reason::Hopeless));
    assert_eq!(enqueue(91, 0), Err(Reason::Expired));
    assert_eq!(enqueue(92, 250_000), Ok(()));
    // Nobody of its class is ahead, and of the others only a share.
    let urgent = queue.enqueue(arrival(93, Priority::Interactive, now + 5_000), now, || 0);
    assert!(urgent.is_ok());
}

#[test]
fn an_old_name_does_not_cancel_who_came_after() {
    let mut queue = queue(10, 10);
    let (first, _) = queue.enqueue(standard(1), 0, || 1).unwrap();
    assert_eq!(queue.cancel(first), Some(1));
    let (second, _) = queue.enqueue(standard(1), 0, || 2).unwrap();
    assert_eq!(queue.cancel(first), None);
    assert_eq!(queue.cancel(second), Some(2));
    assert_eq!((queue.waiting(), pop(&mut queue, 1)), (0, None));
}

#[derive(Clone, Debug)]
enum Step {
    Enqueue { flow: u64, class: Priority, patience: u64 },
    Pop,
    Cancel(usize),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let class = prop::sample::select(Priority::ALL.to_vec());
    let patience = prop_oneof![Just(FAR / 2), 1..2_000_u64];
    prop_oneof![
        5 => (0..6_u64, class, patience)
            .prop_map(|(flow, class, patience)| Step::Enqueue { flow, class, patience }),
        4 => Just(Step::Pop),
        1 => any::<usize>().prop_map(Step::Cancel),
        2 => (0..300_u64).prop_map(Step::Wait),
    ]
}

/// What a plain list knows of a waiter.
#[derive(Clone, Debug)]
struct Known {
    name: u32,
    id: WaiterId,
    flow: u64,
    class: Priority,
    deadline: u64,
    /// Grants of its class to each other flow since it is the first of its own.
    others: HashMap<u64, u32>,
}

proptest! {
    /// - Bounds hold; nobody is lost, and nobody leaves twice.
    /// - Nobody is granted at or past the deadline.
    /// - Within a flow and class: first come, first served.
    /// - While a waiter is the first of its flow, no other flow of its class is granted twice.
    /// - While a class waits, others are granted at most `(total - own) + higher` places in a row.
    #[test]
    fn a_queue_is_bounded_fair_and_in_time(
        steps in prop::collection::vec(step(), 1..400),
        (most, per_flow) in (1..30_u32, 1..12_u32),
        (interactive, standard, batch) in (1..6_u32, 1..4_u32, 1..3_u32),
    ) {
        let weights = Weights { interactive, standard, batch };
        let config =
            GateConfig { queue: most, queue_per_key: Some(per_flow), weights, ..GateConfig::default() };
        let mut queue = Queue::new(&config);
        let (mut now, mut next) = (0, 0);
        let mut waiting: Vec<Known> = Vec::new();
        // Grants in a row that went to other classes while this one waited.
        let mut passed_over: HashMap<Priority, u32> = HashMap::new();
        for step in steps {
            match step {
                Step::Wait(micros) => now += micros,
                Step::Cancel(which) => if !waiting.is_empty() {
                    let known = waiting.remove(which % waiting.len());
                    prop_assert_eq!(queue.cancel(known.id), Some(known.name));
                    prop_assert_eq!(queue.cancel(known.id), None);
                },
                Step::Enqueue { flow, class, patience } => {
                    next += 1;
                    let deadline = now + patience;
                    let of_flow = waiting.iter().filter(|k| (k.flow, k.class) == (flow, class)).count();
                    match queue.enqueue(arrival(flow, class, deadline), now, || next) {
                        Ok((id, evicted)) => {
                            prop_assert_eq!(evicted.is_some(), waiting.len() == most as usize);
                            if let Some(evicted) = evicted {
                                let i = waiting.iter().position(|k| k.name == evicted).unwrap();
                                prop_assert!(waiting.remove(i).class < class);
                            }
                            prop_assert!(of_flow < per_flow as usize);
                            waiting.push(Known { name: next, id, flow, class, deadline, others: HashMap::new() });
                        }
                        Err(Reason::Full) => {
                            prop_assert_eq!(waiting.len(), most as usize);
                            prop_assert!(waiting.iter().all(|known| known.class >= class));
                        }
                        Err(Reason::FlowFull) => prop_assert_eq!(of_flow, per_flow as usize),
                        Err(reason) => prop_assert_eq!(reason, Reason::Hopeless),
                    }
                }
                Step::Pop => {
                    let mut expired = Vec::new();
                    let granted = queue.pop(now, &mut expired);
                    for name in expired {
                        let i = waiting.iter().position(|known| known.name == name).unwrap();
                        prop_assert!(waiting.remove(i).deadline <= now);
                    }
                    let Some(granted) = granted else {
                        prop_assert!(waiting.is_empty());
                        continue;
                    };
                    let i = waiting.iter().position(|known| known.name == granted).unwrap();
                    let winner = waiting.remove(i);
                    prop_assert!(winner.deadline > now);
                    let same = |k: &Known| (k.flow, k.class) == (winner.flow, winner.class);
                    prop_assert!(!waiting[..i].iter().any(same), "overtaken within its flow");
                    let mut first_of = Vec::new();
                    for known in waiting.iter_mut().filter(|known| known.class == winner.class) {
                        if known.flow != winner.flow && !first_of.contains(&known.flow) {
                            first_of.push(known.flow);
                            let times = known.others.entry(winner.flow).or_insert(0);
                            *times += 1;
                            prop_assert!(*times <= 1, "flow {} twice before {}", winner.flow, known.flow);
                        }
                    }
                    for class in Priority::ALL {
                        let in_a_row = passed_over.entry(class).or_insert(0);
                        if class == winner.class || !waiting.iter().any(|known| known.class == class) {
                            *in_a_row = 0;
                            continue;
                        }
                        *in_a_row += 1;
                        let sum = |classes: &mut dyn Iterator<Item = Priority>| -> u32 {
                            classes.map(|class| weights.of(class)).sum()
                        };
                        let others = sum(&mut Priority::ALL.into_iter().filter(|other| *other != class));
                        let higher = sum(&mut Priority::ALL.into_iter().filter(|other| *other > class));
                        prop_assert!(*in_a_row <= others + higher, "{class:?} passed over {in_a_row} times");
                    }
                }
            }
            prop_assert_eq!(queue.waiting() as usize, waiting.len());
            prop_assert!(queue.waiting() <= most);
            for class in Priority::ALL {
                let of_class = waiting.iter().filter(|known| known.class == class).count();
                prop_assert_eq!(queue.waiting_of(class) as usize, of_class);
            }
        }
    }

    /// Whatever came and went, a queue keeps no more memory than its fullest moment took.
    #[test]
    fn leaving_leaves_nothing(flows in prop::collection::vec(0..1000_u64, 1..200)) {
        let mut queue = queue(10, 10);
        for flow in flows {
            let (id, _) = queue.enqueue(standard(flow), 0, || 0).unwrap();
            prop_assert!(queue.cancel(id).is_some());
            prop_assert_eq!(queue.classes[Priority::Standard as usize].by_id.len(), 0);
            prop_assert_eq!(queue.classes[Priority::Standard as usize].turns.len(), 0);
        }
        prop_assert_eq!((queue.waiters.nodes(), queue.flows.nodes()), (1, 1));
    }
}
