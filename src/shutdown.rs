//! How the process ends: two tokens, and the tasks that must not end by themselves.
//!
//! *Soft*: take nothing more, finish and acknowledge what is under way. *Hard*: drop it; the broker
//! delivers it again. Hard implies soft.

use std::future::Future;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Given to every task.
#[derive(Debug, Clone)]
pub struct Shutdown {
    soft: CancellationToken,
    hard: CancellationToken,
    tasks: TaskTracker,
}

impl Default for Shutdown {
    fn default() -> Self {
        let hard = CancellationToken::new();
        Self {
            soft: hard.child_token(),
            hard,
            tasks: TaskTracker::new(),
        }
    }
}

impl Shutdown {
    /// Asks every task to finish what it has.
    pub fn drain(&self) {
        self.soft.cancel();
    }

    /// Tells every task to drop what it has.
    pub fn abort(&self) {
        self.hard.cancel();
    }

    pub fn is_draining(&self) -> bool {
        self.soft.is_cancelled()
    }

    /// Until somebody asks for the end.
    pub async fn draining(&self) {
        self.soft.cancelled().await;
    }

    /// The future's result, or `None` when the end came first.
    pub async fn unless_draining<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        self.soft.run_until_cancelled(future).await
    }

    /// Runs a task that is dropped when the end is hard.
    pub fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<Option<T>> {
        let hard = self.hard.clone();
        self.tasks
            .spawn(async move { hard.run_until_cancelled(task).await })
    }

    /// Until every task has ended.
    pub async fn finished(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}
