use std::collections::HashMap;

use proptest::prelude::*;
use serde_json::json;

use super::token::parse;
use super::*;
use crate::{Gates, Limits, Priority, Problem, Subject};

const NOW: u64 = 1_800_000_000_000;

fn key(id: &str, secrets: Vec<SecretSpec>) -> KeySpec {
    let view: KeyView = serde_json::from_value(json!({ "id": id })).unwrap();
    view.with_secrets(secrets)
}

fn secret(token: &Token) -> SecretSpec {
    SecretSpec { hash: token.hash(), created_ms: 0, expires_ms: None }
}

fn token(id: &str, seed: u8) -> Token {
    Token::from_random(id, [seed; 32])
}

fn ring(keys: &[KeySpec]) -> KeyRing {
    KeyRing::build(keys, &[], &Gates::default()).unwrap()
}

fn paths(problems: &[Problem]) -> Vec<&str> {
    problems.iter().map(|problem| problem.path.as_str()).collect()
}

#[test]
fn a_token_holds_its_key_and_256_bits() {
    for (random, digits) in [([0; 32], "0".repeat(43)), ([0x55; 32], String::new())] {
        let token = Token::from_random("team-a-1", random);
        let (id, secret) = parse(token.expose()).unwrap();
        assert_eq!((id, secret.len()), ("team-a-1", 43));
        assert!(digits.is_empty() || secret == digits);
        assert_eq!(SecretHash::of(secret), token.hash());
    }
    let last_bit = |bit: u8| {
        let mut random = [9; 32];
        random[31] = bit;
        Token::from_random("a", random)
    };
    assert_ne!(last_bit(0).expose(), last_bit(1).expose());
}

#[test]
fn what_is_not_a_token_is_malformed() {
    let secret = "a".repeat(43);
    let ring = ring(&[key("a", vec![secret_of(&secret)])]);
    for text in [
        String::new(),
        "sk-guildhall-".into(),
        "sk-guildhall-a".into(),
        format!("sk-guildhall-{secret}"),
        format!("sk-guildhall--{secret}"),
        format!("sk-other-a-{secret}"),
        format!("sk-guildhall-a-{}", "a".repeat(31)),
        format!("sk-guildhall-a-{}", "a".repeat(129)),
        format!("sk-guildhall-a-{}é", &secret),
        format!("sk-guildhall-{}-{secret}", "a".repeat(65)),
        format!(" sk-guildhall-a-{secret}"),
    ] {
        assert_eq!(ring.authenticate(&text, NOW).err(), Some(Refused::Malformed), "{text}");
    }
    assert!(ring.authenticate(&format!("sk-guildhall-a-{secret}"), NOW).is_ok());
}

fn secret_of(secret: &str) -> SecretSpec {
    SecretSpec { hash: SecretHash::of(secret), created_ms: 0, expires_ms: None }
}

#[test]
fn only_who_knows_the_secret_hears_more_than_unknown() {
    let (right, wrong) = (token("a", 1), token("a", 2));
    let mut spec = key("a", vec![secret(&right)]);
    spec.disabled = true;
    spec.expires_ms = Some(NOW);
    let disabled = ring(std::slice::from_ref(&spec));
    assert_eq!(disabled.authenticate(right.expose(), NOW).err(), Some(Refused::Disabled));
    assert_eq!(disabled.authenticate(wrong.expose(), NOW).err(), Some(Refused::Unknown));
    assert_eq!(disabled.authenticate(token("b", 1).expose(), NOW).err(), Some(Refused::Unknown));
    spec.disabled = false;
    let ended = ring(&[spec]);
    assert!(ended.authenticate(right.expose(), NOW - 1).is_ok());
    assert_eq!(ended.authenticate(right.expose(), NOW).err(), Some(Refused::Expired));
}

#[test]
fn rotation_overlaps() {
    let (old, new) = (token("a", 1), token("a", 2));
    let mut spec = key("a", vec![secret(&old)]);
    spec.rotate(new.hash(), NOW, 1000);
    let rotated = ring(std::slice::from_ref(&spec));
    for (token, now, answer) in [
        (&old, NOW, None),
        (&old, NOW + 999, None),
        (&old, NOW + 1000, Some(Refused::Expired)),
        (&new, NOW, None),
        (&new, NOW + 1000, None),
    ] {
        assert_eq!(rotated.authenticate(token.expose(), now).err(), answer);
    }
    // A later rotation does not lengthen the overlap, and drops what has ended.
    spec.rotate(token("a", 3).hash(), NOW + 500, 1000);
    assert_eq!(spec.secrets[0].expires_ms, Some(NOW + 1000));
    spec.rotate(token("a", 4).hash(), NOW + 1000, 0);
    assert_eq!(spec.secrets.len(), 1);
}

#[test]
fn the_two_forms_of_a_key_are_two_schemas() {
    use utoipa::{PartialSchema, ToSchema};
    let schema = |schema| serde_json::to_string(&schema).unwrap();
    let (stored, shown) = (schema(KeySpec::<SecretSpec>::schema()), schema(KeyView::schema()));
    assert_ne!(KeySpec::<SecretSpec>::name(), KeyView::name());
    assert!(stored.contains("/SecretSpec") && !stored.contains("/SecretView"));
    assert!(shown.contains("/SecretView") && !shown.contains("/SecretSpec"));
}

#[test]
fn nothing_shown_holds_a_secret_or_its_hash() {
    let token = token("a", 5);
    let spec = key("a", vec![secret(&token)]);
    let stored = serde_json::to_string(&spec).unwrap();
    let hash = stored.split("sha256:").nth(1).unwrap()[..64].to_owned();
    assert_eq!(serde_json::from_str::<KeySpec>(&stored).unwrap(), spec);

    let secret = token.expose().rsplit_once('-').unwrap().1.to_owned();
    let gates = Gates::default();
    let compiled = KeyRing::build(std::slice::from_ref(&spec), &[], &gates).unwrap();
    for shown in [
        serde_json::to_string(&spec.view()).unwrap(),
        format!("{spec:?}{token:?}{compiled:?}"),
        serde_json::from_str::<SecretHash>(&format!("\"{secret}\"")).unwrap_err().to_string(),
    ] {
        assert!(!shown.contains(&hash) && !shown.contains(&secret), "{shown}");
    }
    assert_eq!(spec.view().with_secrets(spec.secrets.clone()), spec);
}

#[test]
fn all_problems_are_told_with_their_places() {
    let mut bad = key("-", vec![]);
    bad.team = Some("nobody".into());
    bad.priority = Priority::Interactive;
    bad.highest_priority = Some(Priority::Batch);
    bad.limits = Limits { concurrent: Some(0), ..Limits::default() };
    let good = key("a", vec![secret(&token("a", 1)), secret(&token("a", 1))]);
    let team: TeamSpec = serde_json::from_value(json!({ "id": "A", "limits": { "queue": 1 } })).unwrap();
    let gates = Gates::default();
    let problems = KeyRing::build(&[bad, good.clone(), good], &[team], &gates).unwrap_err();
    assert_eq!(
        paths(&problems),
        [
            "teams[0].id",
            "teams[0].limits.queue",
            "keys[0].id",
            "keys[0].secrets",
            "keys[0].highest_priority",
            "keys[0].limits.concurrent",
            "keys[0].team",
            "keys[1].secrets[1].hash",
            "keys[2].secrets[1].hash",
            "keys[2].id",
        ]
    );
    assert!(gates.stats().is_empty());
    assert!(serde_json::from_value::<KeyView>(json!({ "id": "a", "rout": [] })).is_err());
}

#[test]
fn a_key_may_do_what_it_and_its_team_may() {
    let team: TeamSpec = serde_json::from_value(json!({
        "id": "t", "routes": ["auto", "fast"], "limits": { "requests_per_day": 5, "concurrent": 2 },
    }))
    .unwrap();
    let mut spec = key("a", vec![secret(&token("a", 1))]);
    spec.team = Some("t".into());
    spec.routes = Some(vec!["auto".into(), "slow".into()]);
    spec.experts = Some(vec![]);
    spec.priority = Priority::Standard;
    spec.highest_priority = Some(Priority::Interactive);
    let gates = Gates::default();
    let ring = KeyRing::build(std::slice::from_ref(&spec), std::slice::from_ref(&team), &gates).unwrap();
    let compiled = ring.key("a").unwrap();
    let may = |route| compiled.may_use_route(route);
    assert_eq!([may("auto"), may("fast"), may("slow"), may("x")], [true, false, false, false]);
    assert!(!compiled.may_use_expert("any") && !compiled.may_use_all_experts());
    assert_eq!(compiled.priority(None), Priority::Standard);
    assert_eq!(compiled.priority(Some(Priority::Batch)), Priority::Batch);
    assert_eq!(compiled.priority(Some(Priority::Interactive)), Priority::Interactive);
    spec.highest_priority = None;
    let plain = Key::new(&spec, None, &gates);
    assert_eq!(plain.priority(Some(Priority::Interactive)), Priority::Standard);
    assert!(plain.may_use_route("slow"));

    let accounts = compiled.accounts(None);
    assert!(accounts.key.is_none() && compiled.gate().is_none());
    assert_eq!(accounts.team.unwrap().subject(), &Subject::Team("t".into()));
    let place = ring.team("t").unwrap().gate().unwrap().try_acquire().unwrap();
    // A new ring knows the place that the old one gave.
    let again = KeyRing::build(&[spec], &[team], &gates).unwrap();
    assert_eq!(again.team("t").unwrap().gate().unwrap().stats().in_use, 1);
    drop(place);
    assert_eq!(again.team("t").unwrap().gate().unwrap().stats().in_use, 0);
}

/// What can happen to the keys of an installation.
#[derive(Clone, Debug)]
enum Step {
    Create(u8, Option<u64>),
    Rotate(u8, u64),
    Disable(u8, bool),
    Remove(u8),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let id = 0..4_u8;
    prop_oneof![
        (id.clone(), proptest::option::of(0..50_u64)).prop_map(|(id, end)| Step::Create(id, end)),
        (id.clone(), 0..30_u64).prop_map(|(id, overlap)| Step::Rotate(id, overlap)),
        (id.clone(), any::<bool>()).prop_map(|(id, disabled)| Step::Disable(id, disabled)),
        id.prop_map(Step::Remove),
        (0..20_u64).prop_map(Step::Wait),
    ]
}

/// What the model knows of a token that was handed out: its key's life, and its own end.
#[derive(Clone, Copy)]
struct Handed {
    life: u32,
    end: u64,
}

proptest! {
    /// Every token ever handed out is answered as a plain list of facts would answer it.
    #[test]
    fn a_ring_answers_like_the_list_of_what_happened(steps in prop::collection::vec(step(), 1..40)) {
        let mut specs: HashMap<u8, KeySpec> = HashMap::new();
        // Model: the current life of each id, with its end and whether it is disabled.
        let mut lives: HashMap<u8, (u32, u64, bool)> = HashMap::new();
        let mut handed: Vec<(Token, u8, Handed)> = Vec::new();
        let (mut now, mut made) = (NOW, 0_u8);
        for step in steps {
            made += 1;
            match step {
                Step::Create(id, end) => {
                    let token = token(&format!("key-{id}"), made);
                    let mut spec = key(&format!("key-{id}"), vec![secret(&token)]);
                    spec.expires_ms = end.map(|end| now + end);
                    lives.insert(id, (u32::from(made), spec.expires_ms.unwrap_or(u64::MAX), false));
                    handed.push((token, id, Handed { life: u32::from(made), end: u64::MAX }));
                    specs.insert(id, spec);
                }
                Step::Rotate(id, overlap) => if let Some(spec) = specs.get_mut(&id) {
                    let token = token(&spec.id, made);
                    spec.rotate(token.hash(), now, overlap);
                    let life = lives[&id].0;
                    for (_, _, other) in handed.iter_mut().filter(|(_, of, h)| *of == id && h.life == life) {
                        other.end = other.end.min(now + overlap);
                    }
                    handed.push((token, id, Handed { life, end: u64::MAX }));
                },
                Step::Disable(id, disabled) => if let Some(spec) = specs.get_mut(&id) {
                    spec.disabled = disabled;
                    lives.entry(id).and_modify(|life| life.2 = disabled);
                },
                Step::Remove(id) => { specs.remove(&id); lives.remove(&id); }
                Step::Wait(ms) => now += ms,
            }
            let ring = ring(&specs.values().cloned().collect::<Vec<_>>());
            prop_assert_eq!(ring.len(), specs.len());
            for (token, id, facts) in &handed {
                let expected = match lives.get(id) {
                    Some((life, end, disabled)) if *life == facts.life => {
                        if *disabled { Some(Refused::Disabled) }
                        else if now >= facts.end.min(*end) { Some(Refused::Expired) }
                        else { None }
                    }
                    _ => Some(Refused::Unknown),
                };
                let answer = ring.authenticate(token.expose(), now);
                // A rotation forgets secrets that had ended, which are then unknown.
                let forgotten = answer.as_ref().err() == Some(&Refused::Unknown) && now >= facts.end;
                prop_assert!(forgotten || answer.as_ref().err().copied() == expected, "{answer:?} {expected:?}");
                if let Ok(key) = answer {
                    prop_assert_eq!(key.id().as_ref(), format!("key-{id}"));
                }
            }
        }
    }
}
