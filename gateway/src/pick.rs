//! Chooses which servers may serve a call, in the order in which they are tried.
//!
//! Pure: no I/O, no clock. Called on every call that has more than one candidate.

use std::cmp::Ordering;

use smallvec::SmallVec;

/// What is known of one candidate at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Lower is tried first.
    pub priority: u8,
    /// Share within the priority; 0: only when preferred.
    pub weight: u16,
    /// Calls it has now.
    pub outstanding: u32,
    /// It has an open session and takes new calls.
    pub usable: bool,
    /// It has failed lately: tried only after all healthy ones.
    pub ejected: bool,
    /// The caller named it.
    pub preferred: bool,
}

/// Indices of the candidates to try, best first. `turn` breaks ties, so that equals take turns.
///
/// Order: the preferred one unless it is ejected; then healthy before ejected, priority, and the fewest outstanding
/// calls for its weight.
pub fn order(views: &[View], turn: usize) -> SmallVec<[usize; 4]> {
    let mut order: SmallVec<[usize; 4]> =
        (0..views.len()).filter(|i| views[*i].usable && (views[*i].weight > 0 || views[*i].preferred)).collect();
    let count = views.len().max(1);
    order.sort_by(|a, b| {
        let (va, vb) = (&views[*a], &views[*b]);
        va.ejected
            .cmp(&vb.ejected)
            .then(vb.preferred.cmp(&va.preferred))
            .then(va.priority.cmp(&vb.priority))
            .then_with(|| by_load(va, vb))
            .then_with(|| ((a + turn) % count).cmp(&((b + turn) % count)))
    });
    order
}

/// Compares (outstanding + 1) / weight without dividing.
fn by_load(a: &View, b: &View) -> Ordering {
    let cost = |one: &View, other: &View| (u64::from(one.outstanding) + 1) * u64::from(other.weight.max(1));
    cost(a, b).cmp(&cost(b, a))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: View =
        View { priority: 0, weight: 100, outstanding: 0, usable: true, ejected: false, preferred: false };

    #[test]
    fn candidates_are_tried_in_the_promised_order() {
        let cases: [(&str, Vec<View>, &[usize]); 9] = [
            ("nobody", vec![], &[]),
            ("unusable ones never", vec![View { usable: false, ..PLAIN }, PLAIN], &[1]),
            ("priority first", vec![View { priority: 1, ..PLAIN }, View { outstanding: 9, ..PLAIN }], &[1, 0]),
            ("least outstanding", vec![View { outstanding: 2, ..PLAIN }, View { outstanding: 1, ..PLAIN }], &[1, 0]),
            (
                "by weight",
                vec![View { outstanding: 1, ..PLAIN }, View { weight: 300, outstanding: 3, ..PLAIN }],
                &[1, 0],
            ),
            ("weight 0 never", vec![View { weight: 0, ..PLAIN }, PLAIN], &[1]),
            ("weight 0 when preferred", vec![PLAIN, View { weight: 0, preferred: true, ..PLAIN }], &[1, 0]),
            ("preferred before priority", vec![PLAIN, View { priority: 9, preferred: true, ..PLAIN }], &[1, 0]),
            ("ejected last, even preferred", vec![View { ejected: true, preferred: true, ..PLAIN }, PLAIN], &[1, 0]),
        ];
        for (name, views, expected) in cases {
            assert_eq!(order(&views, 0).as_slice(), expected, "{name}");
        }
    }

    #[test]
    fn equals_take_turns() {
        let views = [PLAIN; 3];
        let first: Vec<usize> = (0..3).map(|turn| order(&views, turn)[0]).collect();
        assert_eq!(
            {
                let mut sorted = first.clone();
                sorted.sort_unstable();
                sorted
            },
            [0, 1, 2]
        );
    }

    fn view() -> impl Strategy<Value = View> {
        (0u8..3, 0u16..4, 0u32..5, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
            |(priority, weight, outstanding, usable, ejected, preferred)| View {
                priority,
                weight,
                outstanding,
                usable,
                ejected,
                preferred,
            },
        )
    }

    proptest! {
        #[test]
        fn the_order_holds_every_usable_candidate_once(views in prop::collection::vec(view(), 0..8), turn in 0usize..100) {
            let mut found = order(&views, turn).to_vec();
            found.sort_unstable();
            let expected: Vec<usize> = (0..views.len())
                .filter(|i| views[*i].usable && (views[*i].weight > 0 || views[*i].preferred))
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}
