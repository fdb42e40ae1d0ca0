//! Names of commands in the background: two words that a model copies without mistakes.

const FIRST: &str = "amber briny brisk calm clear cool coral crisp dawn deep ember fast fresh gentle glow good grand keen kind lucky marine mellow mild neat nimble nova oceanic plaid quick quiet rapid salty sharp swift tender tidal tidy vivid warm wild young";
const SECOND: &str = "atlas basil bison bloom breeze canyon cedar claw cloud comet coral cove crest crustacean daisy dune ember falcon fjord forest glade gulf harbor haven kelp lagoon lobster meadow mist nudibranch orbit otter pine prairie reef ridge river rook sable sage seaslug shell shoal shore slug summit tidepool trail valley wharf willow zephyr";

/// A name that is not taken.
pub(super) fn fresh(is_taken: impl Fn(&str) -> bool) -> String {
    let bytes = uuid::Uuid::new_v4().into_bytes();
    let word = |list: &str, at: usize| {
        let words: Vec<&str> = list.split(' ').collect();
        words[(usize::from(bytes[at]) << 8 | usize::from(bytes[at + 1])) % words.len()].to_owned()
    };
    let name = format!("{}-{}", word(FIRST, 0), word(SECOND, 2));
    let mut candidates =
        std::iter::once(name.clone()).chain((2..).map(|at| format!("{name}-{at}")));
    candidates
        .find(|candidate| !is_taken(candidate))
        .unwrap_or(name)
}
