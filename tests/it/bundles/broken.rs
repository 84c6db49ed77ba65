//! Uploads that cannot be used: each is refused with its reason, and leaves nothing behind.

use std::io::Write;
use std::net::TcpStream;

use e2e::{Client, Gateway};

use super::{Admin, archive, bundle, config, kept};
use crate::support::{ask, mock, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_upload_is_refused_with_its_reason_and_leaves_nothing() {
    let mock = mock().await;
    let gateway = Gateway::start(&config(&mock.url(), "coding: 1.0")).unwrap();
    let admin = Admin::of(&gateway);
    let whole = bundle("2.0.0", |m| m);
    let with = |name: &str, content: &[u8]| {
        let mut files = whole.clone();
        match files.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = content.to_vec(),
            None => files.push((name.into(), content.to_vec())),
        }
        archive(&files)
    };
    let plain = archive(&whole);
    let mut damaged = whole[1].1.clone();
    damaged[1_000_000] ^= 1;
    let outside = tampered(&plain, "../../../outside");
    let versionless = archive(&bundle("2/0", |m| m));
    let other = archive(&bundle("2.0.0", |m| m.replace("category: coding\n", "category: math\n")));
    for (what, body, status, says) in [
        ("cut", plain[..plain.len() / 2].to_vec(), 422, "cannot be read"),
        ("empty", Vec::new(), 422, "cannot be read"),
        ("no archive", b"PK\x03\x04 this is a zip file, says its name".repeat(40), 422, "cannot be read"),
        ("no model", archive(&[&whole[..1], &whole[2..]].concat()), 422, "model.onnx"),
        ("no manifest", archive(&whole[1..]), 422, "bundle.yaml"),
        ("wrong hash", with("model.onnx", &damaged), 422, "model.onnx: sha256 is"),
        ("short file", with("tokenizer.json", b"{}"), 422, "tokenizer.json: 2 bytes, the manifest says"),
        ("an extra file", with("notes.txt", b"x"), 422, "`notes.txt` in the archive is not named by"),
        ("a manifest that is none", with("bundle.yaml", b"name: x"), 422, "bundle.yaml"),
        ("a path that leads out", outside, 422, "leads out of the bundle"),
        ("an odd version", versionless, 422, "version `2/0`"),
        ("a golden input that does not come out", other, 422, "golden input does not reproduce"),
        (
            "a known name",
            archive(&bundle(&super::VERSION, |m| m)),
            409,
            &format!("`{}` is already there", *super::SHIPPED),
        ),
    ] {
        let answer = admin.send("POST", "bundles", body).await;
        let error = answer.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
        assert_eq!(answer.status, status, "{what}: {error}");
        assert!(error.contains(says), "{what}: {error}");
        assert!(!error.contains(".upload-"), "{what} tells of our own places: {error}");
        assert!(kept(gateway.folder()).is_empty(), "{what} left {:?}", kept(gateway.folder()));
    }
    assert!(!gateway.folder().join("outside").exists());
    let unknown = admin.send("POST", "bundles/default@1.0/activate", "").await;
    assert_eq!(unknown.status, 404);
    assert!(unknown.text().contains(&format!("did you mean `{}`?", *super::SHIPPED)), "{}", unknown.text());
    // A dry run checks as much and keeps nothing.
    admin.done("POST", "bundles?dry_run=true", plain).await;
    assert!(kept(gateway.folder()).is_empty());
    let answer =
        Client::default().post(&gateway.v1("chat/completions"), &ask("auto", "2 + 2?")).await.unwrap();
    assert_eq!(answer.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_over_the_limit_is_refused() {
    let mock = mock().await;
    let bundle_dir = e2e::repository().join("router-models/default");
    let config = format!(
        "router: {{bundle: '{}', max_bundle_bytes: 100000}}\n{}",
        bundle_dir.display(),
        config(&mock.url(), "coding: 1.0")
    );
    let gateway = Gateway::start(&config).unwrap();
    let admin = Admin::of(&gateway);
    let refused = admin.send("POST", "bundles", archive(&bundle("2.0.0", |m| m))).await;
    assert_eq!(refused.status, 413, "{}", refused.text());
    assert!(
        refused.text().contains("more than 100000 bytes (router.max_bundle_bytes)"),
        "{}",
        refused.text()
    );
    assert!(kept(gateway.folder()).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_cut_off_with_its_process_or_its_client_leaves_nothing_that_counts() {
    let mock = mock().await;
    let folder = tempfile::tempdir().unwrap();
    let config = config(&mock.url(), "coding: 1.0");
    let mut gateway = Gateway::start_in(folder.path(), &config).unwrap();
    let body = archive(&bundle("2.0.0", |m| m));
    let begin = |gateway: &Gateway| {
        let address = gateway.admin.strip_prefix("http://").unwrap().to_owned();
        let mut socket = TcpStream::connect(&address).unwrap();
        let head = format!(
            "POST /admin/v1/bundles HTTP/1.1\r\nhost: {address}\r\nauthorization: {}\r\ncontent-length: {}\r\n\r\n",
            gateway.bearer(),
            body.len()
        );
        socket.write_all(head.as_bytes()).unwrap();
        socket.write_all(&body[..body.len() / 2]).unwrap();
        socket
    };
    // The client leaves.
    let socket = begin(&gateway);
    until("the upload has begun", async || !kept(folder.path()).is_empty()).await;
    drop(socket);
    until("the upload is gone", async || kept(folder.path()).is_empty()).await;
    // The process dies.
    let socket = begin(&gateway);
    until("the upload has begun again", async || !kept(folder.path()).is_empty()).await;
    gateway.kill().unwrap();
    drop(socket);
    assert_eq!(kept(folder.path()).len(), 1, "the dead cannot tidy up");
    drop(gateway);
    let gateway = Gateway::start_in(folder.path(), &config).unwrap();
    assert!(kept(folder.path()).is_empty(), "{:?}", kept(folder.path()));
    let admin = Admin::of(&gateway);
    assert_eq!(admin.roles().await.len(), 1);
    admin.done("POST", "bundles", body).await;
    assert_eq!(kept(folder.path()), ["default@2.0.0"]);
}

/// The archive with the name of its second entry changed to one that no packer would write.
fn tampered(archive: &[u8], name: &str) -> Vec<u8> {
    let mut bytes = archive.to_vec();
    let at = bytes.windows(17).position(|w| w == b"bundle/model.onnx").unwrap();
    bytes[at..at + 100].fill(0);
    bytes[at..at + name.len()].copy_from_slice(name.as_bytes());
    // The checksum counts its own place as spaces.
    bytes[at + 148..at + 156].fill(b' ');
    let sum: u32 = bytes[at..at + 512].iter().map(|b| u32::from(*b)).sum();
    let text = format!("{sum:06o}\0 ");
    bytes[at + 148..at + 156].copy_from_slice(text.as_bytes());
    bytes
}
