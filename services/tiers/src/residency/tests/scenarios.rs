use super::*;

#[test]
fn a_ready_expert_answers_while_another_is_loaded() {
    let mut world = World::new(pool(3, 2));
    let now = world.warm(&["a"]);
    world.ask(now, "b");
    world.ask(now, "a");
    world.ask(now, "a");
    assert_eq!(world.act(now), ["2 to a", "load b to hbm"]);
    world.arrive(now + SECOND);
    assert!(world.act(now + SECOND).is_empty(), "one batch at a time");
    world.finish(now + SECOND);
    assert_eq!(world.act(now + SECOND), ["1 to b"]);
}

#[test]
fn the_least_asked_for_goes_and_the_leased_pinned_and_waited_for_stay() {
    let mut world = World::new(pool(5, 3));
    let now = world.warm(&["a", "b", "c", "b", "c", "c"]);
    world.ask(now, "d");
    assert_eq!(world.act(now), ["remove a from hbm", "load d to hbm"]);

    let mut world = World::new(pool(5, 3));
    let now = world.warm(&["a", "b", "c", "b", "c", "c"]);
    world.state.pin(world.at("a"), Pin::Soft { until_us: now + 1 }).unwrap();
    world.ask(now, "d");
    assert_eq!(world.act(now), ["remove b from hbm", "load d to hbm"]);

    let mut world = World::new(pool(5, 3));
    let now = world.warm(&["a", "b", "c", "b", "c", "c"]);
    world.ask(now, "a");
    world.ask(now, "d");
    assert_eq!(world.act(now), ["1 to a", "remove b from hbm", "load d to hbm"]);
}

#[test]
fn those_who_have_waited_longest_together_are_served_first() {
    let mut world = World::new(pool(4, 2));
    let now = world.warm(&["a"]);
    world.ask(now, "b");
    for _ in 0..3 {
        world.ask(now + SECOND / 10, "c");
    }
    let now = now + SECOND;
    assert_eq!(world.act(now), ["load c to hbm"]);
    let decided = decide(now, &world.state, &world.queue);
    assert!(decided.is_empty(), "the channel is busy: {decided:?}");
}

#[test]
fn a_request_whose_bound_is_near_goes_before_all_others() {
    let mut pool = pool(3, 1);
    pool.policy.bound_us = 10 * SECOND;
    let mut world = World::new(pool);
    let mut now = world.warm(&["a"]);
    world.ask(now, "b");
    let due = now + 10 * SECOND;
    // a is asked for again and again, so that it never goes of itself.
    loop {
        world.ask(now, "a");
        world.ask(now, "a");
        let said = world.act(now);
        if said.iter().any(|said| said == "drain a") {
            break;
        }
        assert_eq!(said, ["2 to a"], "at {now}");
        assert!(now < due, "nothing was done for b before its bound");
        now += SECOND / 10;
        world.finish(now);
    }
    assert!(now + 2 * SECOND > due, "no earlier than needed");
    now += SECOND / 10;
    world.finish(now);
    assert_eq!(world.act(now), ["remove a from hbm", "load b to hbm"]);
    now += SECOND;
    world.arrive(now);
    assert_eq!(world.act(now)[0], "1 to b");
    assert!(now <= due + SECOND / 10, "the load began too late: {now}, due {due}");
}

#[test]
fn bytes_that_take_time_to_be_free_are_waited_for() {
    let mut pool = pool(2, 1);
    pool.frees_at_once = false;
    let mut world = World::new(pool);
    let now = world.warm(&["a"]);
    world.ask(now, "b");
    assert_eq!(world.act(now), ["remove a from hbm"]);
    assert_eq!(world.state.phase(world.at("a")), Some(&Phase::Unloading));
    let (a, generation) = world.loads.remove(0);
    assert_eq!(world.state.account(Tier::Hbm).unwrap().free(), 0);
    world.state.gone(a, generation).unwrap();
    assert_eq!(world.act(now + 1), ["load b to hbm"]);
    assert_eq!(world.state.phase(a), Some(&Phase::Warm));
}

#[test]
fn what_failed_keeps_its_bytes_until_a_probe_and_is_tried_again_in_time() {
    let mut world = World::new(pool(2, 1));
    let a = world.at("a");
    world.ask(0, "a");
    world.act(0);
    let (_, generation) = world.loads.remove(0);
    world.state.failed(a, generation, "out of memory", 3 * SECOND).unwrap();
    assert_eq!(world.state.account(Tier::Hbm).unwrap().incoming(), 10 * GB);
    assert_eq!(world.state.failed(a, generation, "again", 0), Err(Conflict::Stale));
    assert!(world.act(SECOND).is_empty());
    world.state.probed(SECOND, a, &[]).unwrap();
    assert_eq!(world.state.account(Tier::Hbm).unwrap().free(), 10 * GB);
    assert!(world.act(SECOND).is_empty(), "not before its time");
    assert_eq!(wake(SECOND, &world.state, &world.queue), Some(3 * SECOND));
    assert_eq!(world.act(3 * SECOND), ["load a to hbm"]);
    assert_eq!(world.state.arrived(4 * SECOND, a, generation, None), Err(Conflict::Stale), "a late report");
}

#[test]
fn a_request_for_what_cannot_be_had_is_refused_when_its_bound_is_up() {
    let mut world = World::new(pool(2, 1));
    let (a, b) = (world.at("a"), world.at("b"));
    world.ask(0, "a");
    world.act(0);
    let (_, generation) = world.loads.remove(0);
    world.state.lost(a, generation, 0).unwrap();
    assert_eq!(world.state.phase(a), Some(&Phase::Unknown));
    assert!(world.act(SECOND).is_empty());
    assert_eq!(world.act(5 * SECOND), ["refuse a"]);

    world.state.probed(6 * SECOND, a, &[(Tier::Hbm, 10 * GB)]).unwrap();
    assert!(world.state.is_hot(a));
    world.state.pin(a, Pin::Hard).unwrap();
    world.ask(6 * SECOND, "b");
    assert!(world.act(6 * SECOND).is_empty());
    assert_eq!(world.act(11 * SECOND), ["refuse b"]);
    assert_eq!(world.queue.waiting(b), 0);
}

#[test]
fn an_adapter_brings_its_base_and_keeps_it() {
    let adapter = |name: &str| ExpertSpec {
        id: id(name),
        kind: Kind::Adapter { base: id("a") },
        bytes: BTreeMap::from([(Tier::Slot, 1), (Tier::Dram, GB)]),
        warm_us: 0,
        batch_us: SECOND / 10,
    };
    let mut pool = pool(2, 1);
    pool.tiers[1].capacity_bytes += 10 * GB;
    pool.tiers.push(TierSpec {
        tier: Tier::Slot,
        capacity_bytes: 1,
        reserved_bytes: 0,
        source: Source::Declared,
    });
    pool.links.push(link(Tier::Dram, Tier::Slot, 10.0));
    pool.experts.extend([adapter("x"), adapter("y")]);
    let mut world = World::new(pool);
    world.ask(0, "x");
    assert_eq!(world.act(0), ["load a to hbm"]);
    world.arrive(SECOND);
    assert_eq!(world.act(SECOND), ["load x to slot"]);
    world.arrive(2 * SECOND);
    assert_eq!(world.act(2 * SECOND), ["1 to x"]);
    world.finish(3 * SECOND);
    world.ask(4 * SECOND, "y");
    assert_eq!(world.act(4 * SECOND), ["remove x from slot", "load y to slot"]);
    world.arrive(5 * SECOND);
    world.ask(5 * SECOND, "b");
    assert_eq!(world.act(5 * SECOND), ["1 to y"], "the base of an adapter that is in use stays");
    world.finish(6 * SECOND);
    assert_eq!(world.act(7 * SECOND), ["remove y from slot", "remove a from hbm", "load b to hbm"]);
}

#[test]
fn experts_on_the_disk_go_through_the_memory_and_stay_there() {
    let mut pool = pool(3, 1);
    pool.tiers = vec![tier(Tier::Hbm, 10), tier(Tier::Dram, 20), tier(Tier::Disk, 100)];
    pool.links.push(link(Tier::Disk, Tier::Dram, 1.0));
    pool.policy.bound_us = 100 * SECOND;
    for expert in &mut pool.experts {
        expert.bytes.insert(Tier::Disk, 10 * GB);
    }
    let mut world = World::new(pool);
    assert_eq!(world.state.load_us(world.at("a"), Tier::Hbm), 10 * SECOND, "the slower link counts");
    world.ask(0, "a");
    assert_eq!(world.act(0), ["load a to hbm"]);
    world.arrive(10 * SECOND);
    world.act(10 * SECOND);
    // a is in use, so that b gets as far as the memory, at the same time.
    world.ask(10 * SECOND, "b");
    assert_eq!(world.act(10 * SECOND), ["load b to dram"]);
    assert_eq!(world.state.phase(world.at("b")), Some(&Phase::Staging));
    world.arrive(20 * SECOND);
    world.finish(20 * SECOND);
    assert_eq!(world.act(20 * SECOND), ["remove a from hbm", "load b to hbm"]);
    assert_eq!(world.state.nearest(world.at("a")), Some(Tier::Dram));
    world.arrive(21 * SECOND);
    world.act(21 * SECOND);
    world.finish(22 * SECOND);
    world.ask(40 * SECOND, "c");
    let said = world.act(40 * SECOND);
    assert_eq!(said, ["remove a from dram", "remove b from hbm", "load c to hbm"]);
}

#[test]
fn one_tenants_long_tail_waits_for_the_others() {
    let mut pool = pool(12, 2);
    pool.policy.tenant_allowance_s = 2.0;
    pool.policy.bound_us = 1_000 * SECOND;
    let mut world = World::new(pool);
    // Tenant 1 asks for one expert after another; tenant 2 has caused one load.
    let mut now = 0;
    for (name, tenant) in [("a", 1), ("b", 1), ("c", 1), ("d", 1), ("e", 2)] {
        world.ask_for(now, name, tenant);
        world.act(now);
        now += SECOND;
        world.arrive(now);
        world.act(now);
        now += SECOND;
        world.finish(now);
        world.act(now);
    }
    // All that tenant 1 wants has waited longer.
    for name in ["f", "g", "h"] {
        world.ask_for(now, name, 1);
        world.ask_for(now, name, 1);
    }
    world.ask_for(now + SECOND, "i", 2);
    let said = world.act(now + 2 * SECOND);
    assert_eq!(said.last().unwrap(), "load i to hbm", "{said:?}");
}

#[test]
fn a_limit_on_loads_holds_back_all_but_the_bound() {
    let mut pool = pool(4, 2);
    pool.policy.loads_per_minute = 1;
    let mut world = World::new(pool);
    world.ask(0, "a");
    assert_eq!(world.act(0), ["load a to hbm"]);
    world.arrive(SECOND);
    world.act(SECOND);
    world.finish(SECOND);
    world.ask(2 * SECOND, "b");
    assert!(world.act(2 * SECOND).is_empty());
    assert_eq!(world.act(6 * SECOND), ["load b to hbm"]);
}

#[test]
fn what_cannot_be_served_in_time_is_refused_with_an_honest_time() {
    let world = World::new(pool(3, 1));
    let request = NewRequest { id: 0, expert: world.at("b"), tenant: 0, deadline_us: Some(SECOND / 2) };
    let refusal = admit(0, &world.state, &world.queue, request).unwrap_err();
    assert_eq!(refusal.why, RefusedFor::Deadline);
    assert_eq!(refusal.retry_after_us, SECOND / 2, "loading takes a second");
    let request = NewRequest { deadline_us: Some(2 * SECOND), ..request };
    let waiting = admit(0, &world.state, &world.queue, request).unwrap();
    assert_eq!(waiting.due_us, SECOND, "half of the time to the deadline");

    let mut pool = pool(3, 1);
    pool.policy.queue_max = 1;
    let mut world = World::new(pool);
    world.ask(0, "a");
    let request = NewRequest { id: 1, expert: world.at("a"), tenant: 0, deadline_us: None };
    let refusal = admit(0, &world.state, &world.queue, request).unwrap_err();
    assert_eq!(refusal.why, RefusedFor::Full);
}

#[test]
fn warming_up_is_part_of_a_load() {
    let mut pool = pool(1, 1);
    pool.experts[0].warm_us = SECOND;
    let mut world = World::new(pool);
    let a = world.at("a");
    world.ask(0, "a");
    world.act(0);
    let (_, generation) = world.loads[0];
    world.arrive(SECOND);
    assert_eq!(world.state.phase(a), Some(&Phase::Warming));
    assert!(world.act(SECOND).is_empty());
    world.state.warmed(2 * SECOND, a, generation).unwrap();
    assert_eq!(world.act(2 * SECOND), ["1 to a"]);
}

#[test]
fn a_pool_that_cannot_be_is_refused_with_place_and_remedy() {
    let wrong = |change: &dyn Fn(&mut PoolSpec)| {
        let mut pool = pool(2, 1);
        change(&mut pool);
        State::new(pool).unwrap_err().to_string()
    };
    let base = |name: &str| Kind::Adapter { base: id(name) };
    for (said, error) in [
        ("tier `hbm` is given twice", wrong(&|pool| pool.tiers.push(tier(Tier::Hbm, 1)))),
        ("reserves all of its bytes", wrong(&|pool| pool.tiers[0].reserved_bytes = 10 * GB)),
        ("`from` must be the farther tier", wrong(&|pool| pool.links[0] = link(Tier::Hbm, Tier::Dram, 1.0))),
        ("bytes_per_second must be", wrong(&|pool| pool.links[0].bytes_per_second = 0.0)),
        ("there is no such link", wrong(&|pool| pool.links.clear())),
        ("expert `a`: is given twice", wrong(&|pool| pool.experts[1].id = id("a"))),
        ("needs 20000000000 bytes in tier `hbm`", wrong(&|pool| pool.experts[0] = full("a", 20))),
        ("which the pool does not have", wrong(&|pool| pool.experts[0].bytes.extend([(Tier::Disk, 1)]))),
        ("its base `z` is not an expert", wrong(&|pool| pool.experts[0].kind = base("z"))),
        ("is an adapter itself", wrong(&|pool| pool.experts.iter_mut().for_each(|e| e.kind = base("a")))),
        ("those at home there need", wrong(&|pool| pool.tiers[1].capacity_bytes = 15 * GB)),
        ("policy.batch_max must be at least 1", wrong(&|pool| pool.policy.batch_max = 0)),
    ] {
        assert!(error.contains(said), "{error}");
    }
}
