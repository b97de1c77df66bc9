//! Chooses which servers may serve a call, in the order in which they are tried.
//!
//! Pure: no I/O, no clock. Called on every call that has more than one candidate.

use std::cmp::Ordering;

use smallvec::SmallVec;

/// The state of one candidate at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CandidateState {
    /// Lower is tried first.
    pub(crate) priority: u8,
    /// Share within the priority; 0: only when preferred.
    pub(crate) weight: u16,
    /// The running calls of the server.
    pub(crate) outstanding: u32,
    /// The server has an open session and accepts new calls.
    pub(crate) usable: bool,
    /// The server has failed lately: tried only after all healthy ones.
    pub(crate) ejected: bool,
    /// The caller named it.
    pub(crate) preferred: bool,
}

/// Calls that every server is assumed to have besides its own, so that one or two real ones weigh little.
const PRIOR: f64 = 8.0;

/// Indices of the candidates to try, best first. `turn` breaks ties, so that equals alternate.
///
/// Order: the preferred one unless it is ejected; then healthy before ejected, priority, and the fewest outstanding
/// calls for its weight. If weights differ, the first one is drawn by its share of them.
pub(crate) fn order(views: &[CandidateState], turn: usize) -> SmallVec<[usize; 4]> {
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
    let level = |i: usize| (views[i].ejected, views[i].preferred, views[i].priority);
    let top = order.iter().take_while(|i| level(**i) == level(order[0])).count();
    if order[..top].iter().any(|i| views[*i].weight != views[order[0]].weight) {
        let drawn = draw(views, &order[..top], turn);
        order[..=drawn].rotate_right(1);
    }
    order
}

/// Draws one of `level` by weight; a candidate with more calls than its share is drawn less often, and the reverse.
///
/// The least loaded candidate alone would not do: as long as calls come one by one, it is always the one with the
/// greatest weight.
fn draw(views: &[CandidateState], level: &[usize], turn: usize) -> usize {
    let sum = |of: fn(&CandidateState) -> f64| level.iter().map(|i| of(&views[*i])).sum::<f64>();
    let (weights, outstanding) = (sum(weight), sum(|view| f64::from(view.outstanding)));
    let chance = |view: &CandidateState| {
        let load = (f64::from(view.outstanding) * weights / weight(view) + PRIOR) / (outstanding + PRIOR);
        weight(view) / (load * load)
    };
    let mut point = spread(turn) * level.iter().map(|i| chance(&views[*i])).sum::<f64>();
    let mut sorted: SmallVec<[usize; 4]> = (0..level.len()).collect();
    sorted.sort_by_key(|at| level[*at]);
    for at in &sorted {
        point -= chance(&views[level[*at]]);
        if point < 0.0 {
            return *at;
        }
    }
    0
}

fn weight(view: &CandidateState) -> f64 {
    f64::from(view.weight.max(1))
}

/// A number in 0..1 for each turn: any run of turns is spread evenly (multiples of the golden ratio).
fn spread(turn: usize) -> f64 {
    const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
    let high = (turn as u64).wrapping_mul(GOLDEN) >> 32;
    f64::from(u32::try_from(high).unwrap_or(u32::MAX)) / (f64::from(u32::MAX) + 1.0)
}

/// Compares (outstanding + 1) / weight without dividing.
fn by_load(a: &CandidateState, b: &CandidateState) -> Ordering {
    let cost = |one: &CandidateState, other: &CandidateState| {
        (u64::from(one.outstanding) + 1) * u64::from(other.weight.max(1))
    };
    cost(a, b).cmp(&cost(b, a))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: CandidateState =
        CandidateState { priority: 0, weight: 100, outstanding: 0, usable: true, ejected: false, preferred: false };

    #[test]
    fn candidates_are_tried_in_the_promised_order() {
        let cases: [(&str, Vec<CandidateState>, &[usize]); 8] = [
            ("nobody", vec![], &[]),
            ("unusable ones never", vec![CandidateState { usable: false, ..PLAIN }, PLAIN], &[1]),
            (
                "priority first",
                vec![CandidateState { priority: 1, ..PLAIN }, CandidateState { outstanding: 9, ..PLAIN }],
                &[1, 0],
            ),
            (
                "least outstanding",
                vec![CandidateState { outstanding: 2, ..PLAIN }, CandidateState { outstanding: 1, ..PLAIN }],
                &[1, 0],
            ),
            ("weight 0 never", vec![CandidateState { weight: 0, ..PLAIN }, PLAIN], &[1]),
            ("weight 0 when preferred", vec![PLAIN, CandidateState { weight: 0, preferred: true, ..PLAIN }], &[1, 0]),
            (
                "preferred before priority",
                vec![PLAIN, CandidateState { priority: 9, preferred: true, ..PLAIN }],
                &[1, 0],
            ),
            (
                "ejected last, even preferred",
                vec![CandidateState { ejected: true, preferred: true, ..PLAIN }, PLAIN],
                &[1, 0],
            ),
        ];
        for (name, views, expected) in cases {
            assert_eq!(order(&views, 0).as_slice(), expected, "{name}");
        }
    }

    #[test]
    fn shares_follow_the_weights_and_the_load_corrects_them() {
        let heavy = |outstanding| CandidateState { weight: 300, outstanding, ..PLAIN };
        let light = |outstanding| CandidateState { outstanding, ..PLAIN };
        let cases = [
            ("no load", [light(0), heavy(0)], 245..=255),
            ("a load by weight", [light(10), heavy(30)], 245..=255),
            ("one call", [light(0), heavy(1)], 250..=330),
            ("the light one hangs", [light(40), heavy(0)], 0..=10),
            ("the heavy one hangs", [light(0), heavy(40)], 900..=1000),
        ];
        for (name, views, expected) in cases {
            let first = (0..1000).filter(|turn| order(&views, *turn)[0] == 0).count();
            assert!(expected.contains(&first), "{name}: {first}");
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

    fn view() -> impl Strategy<Value = CandidateState> {
        (0u8..3, 0u16..4, 0u32..5, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
            |(priority, weight, outstanding, usable, ejected, preferred)| CandidateState {
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
