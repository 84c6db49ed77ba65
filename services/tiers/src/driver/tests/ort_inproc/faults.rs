//! What goes wrong, and what it leaves behind.

use sha2::{Digest as _, Sha256};
use tokio::time::timeout;

use super::*;

const SIDE: usize = 256;
const ROOMY: u64 = 1 << 30;

async fn residence(driver: &Driver, at: usize) -> Residence {
    place(driver, &name(at)).await.0
}

#[tokio::test]
async fn without_onnx_runtime_and_with_wrong_settings_it_says_what_to_do() {
    let models = Models::new(&[SIDE]);
    let spec = models.spec(ROOMY);
    let bare = Driver::new(serde_json::from_value(spec.clone()).unwrap()).unwrap();
    let error = promote(&bare, "m0", Tier::Hbm).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
    assert!(error.message.contains("make deps"), "{error}");
    let wrong = |change: &dyn Fn(&mut Value)| {
        let mut spec = spec.clone();
        change(&mut spec["driver"]);
        Driver::with_onnxruntime(serde_json::from_value(spec).unwrap(), onnxruntime()).err().unwrap().message
    };
    let message = wrong(&|driver| driver["intra_op_threads"] = json!(0));
    assert!(message.contains("intra_op_threads"), "{message}");
    let message = wrong(&|driver| driver["models"]["m0"]["sha256"] = json!("abc"));
    assert!(message.contains("models.m0.sha256"), "{message}");
}

#[tokio::test]
async fn files_that_are_missing_cut_off_or_not_what_they_should_be_are_refused() {
    let models = Models::new(&[SIDE; 4]);
    fs::remove_file(models.file(0)).unwrap();
    let whole = fs::read(models.file(1)).unwrap();
    fs::write(models.file(1), &whole[..whole.len() / 2]).unwrap();
    let mut spec = models.spec(ROOMY);
    let hash = |at| format!("{:X}", Sha256::digest(fs::read(models.file(at)).unwrap()));
    spec["driver"]["models"]["m2"]["sha256"] = json!(hash(2));
    spec["driver"]["models"]["m3"]["sha256"] = json!(hash(2));
    for dram in [false, true] {
        spec["driver"]["dram"] = json!(dram);
        let driver = start(spec.clone());
        for (at, why) in [(0, "No such file"), (1, "does not load"), (3, "fetch it again")] {
            let error = promote(&driver, &name(at), Tier::Hbm).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Refused, "{error}");
            assert!(error.message.contains(why) && error.message.contains(".onnx"), "{error}");
            assert_eq!(residence(&driver, at).await, Residence::In(Tier::Disk));
            assert!(driver.resident(&id(&name(at))).is_none());
        }
        promote(&driver, "m2", Tier::Hbm).await.unwrap();
        models.ask(&driver, 2);
    }
}

#[tokio::test]
async fn a_model_larger_than_the_budget_is_refused_and_one_without_room_is_busy() {
    let models = Models::new(&[SIDE, SIDE, 2 * SIDE]);
    let driver = models.driver(models.weights(0) * 3 / 2);
    let error = promote(&driver, "m2", Tier::Hbm).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused);
    assert!(error.message.contains("raise it"), "{error}");
    promote(&driver, "m0", Tier::Hbm).await.unwrap();
    let error = promote(&driver, "m1", Tier::Hbm).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Busy);
    assert!(error.message.contains("are free"), "{error}");
    demote(&driver, "m0", Tier::Disk).await.unwrap();
    promote(&driver, "m1", Tier::Hbm).await.unwrap();
    models.ask(&driver, 1);
}

#[tokio::test]
async fn what_is_in_use_stays() {
    let models = Models::new(&[SIDE]);
    let driver = models.driver(ROOMY);
    promote(&driver, "m0", Tier::Hbm).await.unwrap();
    let resident = driver.resident(&id("m0")).unwrap();
    assert_eq!(demote(&driver, "m0", Tier::Disk).await.unwrap_err().kind, ErrorKind::Busy);
    models.ask(&driver, 0);
    let binding = resident.run(|session| session.create_binding()).unwrap();
    drop(resident);
    assert_eq!(demote(&driver, "m0", Tier::Disk).await.unwrap_err().kind, ErrorKind::Busy);
    models.ask(&driver, 0);
    drop(binding);
    demote(&driver, "m0", Tier::Disk).await.unwrap();
    assert_eq!(residence(&driver, 0).await, Residence::In(Tier::Disk));
}

#[tokio::test]
async fn a_load_that_nobody_waits_for_any_more_ends_and_can_be_taken_back() {
    let models = Models::new(&[4 * SIDE]);
    let driver = models.driver(ROOMY);
    // Polled once, and dropped.
    assert!(timeout(Duration::ZERO, promote(&driver, "m0", Tier::Hbm)).await.is_err());
    assert!(matches!(residence(&driver, 0).await, Residence::Moving | Residence::In(Tier::Hbm)));
    demote(&driver, "m0", Tier::Disk).await.unwrap();
    assert_eq!(residence(&driver, 0).await, Residence::In(Tier::Disk));
    let late = Step { expert: &id("m0"), to: Tier::Hbm, deadline: Instant::now() };
    // It ended in time where this thread looked only then.
    if let Err(error) = driver.promote(late).await {
        assert_eq!(error.kind, ErrorKind::HalfDone);
    }
    promote(&driver, "m0", Tier::Hbm).await.unwrap();
    models.ask(&driver, 0);
}

#[tokio::test]
async fn files_in_memory_are_where_experts_come_from_and_go_back_to() {
    let models = Models::new(&[SIDE]);
    let mut spec = models.spec(ROOMY);
    spec["driver"]["dram"] = json!(true);
    let driver = start(spec);
    let size = fs::metadata(models.file(0)).unwrap().len();
    let placed = promote(&driver, "m0", Tier::Dram).await.unwrap().placed;
    assert_eq!(placed.residence, Residence::In(Tier::Dram));
    fs::remove_file(models.file(0)).unwrap();
    let placed = promote(&driver, "m0", Tier::Hbm).await.unwrap().placed;
    assert_eq!(placed.bytes[&Tier::Dram], (size, Source::Measured));
    if !driver.caps().measures {
        assert_eq!(placed.bytes[&Tier::Hbm], (size, Source::Declared));
    }
    models.ask(&driver, 0);
    demote(&driver, "m0", Tier::Dram).await.unwrap();
    assert_eq!(residence(&driver, 0).await, Residence::In(Tier::Dram));
    demote(&driver, "m0", Tier::Disk).await.unwrap();
    assert_eq!(promote(&driver, "m0", Tier::Hbm).await.unwrap_err().kind, ErrorKind::Refused);
}

#[tokio::test]
async fn weights_in_a_file_of_their_own_are_needed_and_measured() {
    if !alone("faults::weights_in_a_file_of_their_own_are_needed_and_measured") {
        return;
    }
    let models = Models::new(&[4 * SIDE]);
    let beside = models.folder.path().join("weights.bin");
    fs::write(models.file(0), graph::model_beside(4 * SIDE, "weights.bin")).unwrap();
    let whole = graph::weights(4 * SIDE, 1.0);
    for dram in [false, true] {
        let mut spec = models.spec(ROOMY);
        spec["driver"]["dram"] = json!(dram);
        let driver = start(spec);
        for written in [None, Some(whole.len() / 2)] {
            let _ = fs::remove_file(&beside);
            if let Some(bytes) = written {
                fs::write(&beside, &whole[..bytes]).unwrap();
            }
            let error = promote(&driver, "m0", Tier::Hbm).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Refused, "{error}");
            assert_eq!(residence(&driver, 0).await, Residence::In(Tier::Disk));
        }
        fs::write(&beside, &whole).unwrap();
        let placed = promote(&driver, "m0", Tier::Hbm).await.unwrap().placed;
        let (bytes, source) = placed.bytes[&Tier::Hbm];
        assert_eq!(source, Source::Measured);
        let off = bytes.abs_diff(whole.len() as u64);
        assert!(off < 256 * 1_024, "{bytes} bytes were measured of {}", whole.len());
        models.ask(&driver, 0);
        demote(&driver, "m0", Tier::Disk).await.unwrap();
    }
}
