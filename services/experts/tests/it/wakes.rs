//! A task is woken by its connections' events, not by its own work.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};

use crate::support::*;

/// Passes wakes on and counts those that came while the future was polled.
#[derive(Default)]
struct Counting {
    outer: Mutex<Option<Waker>>,
    polling: AtomicBool,
    own: AtomicUsize,
}

impl Wake for Counting {
    fn wake(self: Arc<Self>) {
        if self.polling.load(Ordering::SeqCst) {
            self.own.fetch_add(1, Ordering::SeqCst);
        }
        if let Some(waker) = &*self.outer.lock().unwrap() {
            waker.wake_by_ref();
        }
    }
}

async fn own_wakes<F: Future>(future: F) -> (F::Output, usize) {
    let counting = Arc::new(Counting::default());
    let waker = Waker::from(counting.clone());
    let mut future = pin!(future);
    let output = std::future::poll_fn(|cx| {
        *counting.outer.lock().unwrap() = Some(cx.waker().clone());
        counting.polling.store(true, Ordering::SeqCst);
        let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
        counting.polling.store(false, Ordering::SeqCst);
        polled
    })
    .await;
    (output, counting.own.load(Ordering::SeqCst))
}

#[tokio::test]
async fn an_exchange_wakes_nobody_by_itself() {
    let plain = whole("200 OK", "application/json", r#"{"model":"m"}"#);
    let stream = format!("{STREAM}{}{}{END}", chunk("data: {}\n\n"), chunk("data: [DONE]\n\n"));
    for (answer, asked) in [(plain, PLAIN), (stream, STREAMED)] {
        let upstream = Upstream::answering(answer).await;
        let expert = expert(&upstream);
        // The first call opens the connection.
        text(ask(&expert, asked).await.unwrap().body).await;
        for _ in 0..3 {
            let (reply, calling) = own_wakes(ask(&expert, asked)).await;
            let (_, reading) = own_wakes(text(reply.unwrap().body)).await;
            assert_eq!((calling, reading), (0, 0));
        }
    }
}
