//! Several questions at the same time.

use std::future::poll_fn;
use std::task::Poll;

/// Does them all, to the end; what came of each, in their order.
pub async fn together<F: Future>(all: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut under_way: Vec<_> = all.into_iter().map(|one| (Box::pin(one), None)).collect();
    poll_fn(|context| {
        for (one, outcome) in under_way.iter_mut().filter(|(_, outcome)| outcome.is_none()) {
            if let Poll::Ready(done) = one.as_mut().poll(context) {
                *outcome = Some(done);
            }
        }
        if under_way.iter().all(|(_, outcome)| outcome.is_some()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    under_way.into_iter().filter_map(|(_, outcome)| outcome).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::together;

    #[tokio::test]
    async fn what_takes_long_takes_as_long_as_the_longest() {
        let began = Instant::now();
        let done = together([30, 10, 20].map(async |wait| {
            tokio::time::sleep(Duration::from_millis(wait)).await;
            wait
        }))
        .await;
        assert_eq!(done, [30, 10, 20]);
        assert!(began.elapsed() < Duration::from_millis(60 * 10));
        assert!(together(std::iter::empty::<std::future::Ready<()>>()).await.is_empty());
    }
}
