use std::io;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

/// The thread that makes all transitions. Threads keep memory for themselves when they first compute or allocate, so
/// with a new one for each load that would be measured as the expert's.
pub(super) struct Worker {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

pub(super) type Job = Box<dyn FnOnce() + Send>;

impl Worker {
    pub(super) fn start() -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let work = move || queue.into_iter().for_each(|job| job());
        let thread = thread::Builder::new().name("tiers-onnx".to_owned()).spawn(work)?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Where the thread has ended, the job is dropped, and what it would have sent never comes.
    pub(super) fn run(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(job);
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // It ends with the transition under way; a panic of it has been reported there.
            let _ = thread.join();
        }
    }
}
