//! Files that are worth being read again, because `siltstone apply` has changed tables by them: a session that it
//! told to begin anew would else undo by the old files what was just done.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

/// Whoever waits goes on then in any case: a session by old files is better than none.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// Who asks for files to be read again, and who reads them.
#[derive(Debug, Default)]
pub struct Reread {
    asked: Notify,
    /// how often that was done
    read: watch::Sender<u64>,
    is_read: AtomicBool,
}

impl Reread {
    /// Asks for it.
    pub(super) fn ask(&self) {
        self.asked.notify_one();
    }

    /// Asks for it, and waits until every connector has its new files. At once where files are never read again.
    pub(super) async fn done(&self) {
        let mut read = self.read.subscribe();
        read.borrow_and_update();
        self.ask();
        if self.is_read.load(Ordering::SeqCst) {
            drop(tokio::time::timeout(READ_WITHIN, read.changed()).await);
            // who has to hear of the new files beside us hears of it first
            tokio::task::yield_now().await;
        }
    }

    /// Waits until it is asked for; who calls it reads files again from then on.
    pub async fn asked(&self) {
        self.is_read.store(true, Ordering::SeqCst);
        self.asked.notified().await;
    }

    /// The files were read and heeded, or refused.
    pub fn note_read(&self) {
        self.read.send_modify(|read| *read += 1);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn who_asks_goes_on_once_the_files_were_read() {
        let reread = Arc::new(Reread::default());
        // nobody reads files again
        reread.done().await;
        let reads = tokio::spawn({
            let reread = reread.clone();
            async move {
                // once for who did not wait
                for _ in 0..2 {
                    reread.asked().await;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    reread.note_read();
                }
            }
        });
        while !reread.is_read.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        let before = *reread.read.borrow();
        reread.done().await;
        assert!(*reread.read.borrow() > before);
        reread.ask();
        reads.await.unwrap();
    }
}
