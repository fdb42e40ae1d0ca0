//! What a command line says, when that can be said for certain.
//!
//! Lists and pipelines of simple commands, whose words are known before anything runs. Whatever else a shell knows (an
//! expansion, a redirection, a loop, a background job) is not analysed: such a line matches no list and can't be bound to an
//! approval. The original's rules (src/infra/exec-authorization-plan.ts at 2026.9.6), with fewer exceptions.

/// A line that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
}

/// One simple command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    /// Its words, quotes taken away.
    pub(super) argv: Vec<String>,
    /// `NAME=value` before it: what it does may depend on it, so only a person can let it run.
    pub(super) has_assignments: bool,
    /// A pattern, a tilde or braces: the shell makes other words of them.
    pub(super) has_patterns: bool,
    /// What follows it.
    pub(super) next: Option<Operator>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Pipe,
    And,
    Or,
    Then,
}

impl Operator {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Pipe => " | ",
            Self::And => " && ",
            Self::Or => " || ",
            Self::Then => "; ",
        }
    }
}

/// Longest line that is looked at.
const BYTES_MAX: usize = 64 * 1024;
const STEPS_MAX: usize = 256;
/// Words that begin something else than a simple command.
const RESERVED: [&str; 22] = [
    "if", "then", "else", "elif", "fi", "for", "while", "until", "do", "done", "case", "esac",
    "in", "function", "select", "coproc", "time", "!", "{", "}", "[[", "]]",
];

impl Plan {
    /// `None`: what it does can't be told from its text.
    pub(super) fn read(line: &str) -> Option<Self> {
        if line.len() > BYTES_MAX {
            return None;
        }
        let mut reader = Reader {
            chars: line.chars().collect(),
            at: 0,
        };
        let mut steps = Vec::new();
        loop {
            let step = reader.step()?;
            let next = reader.operator()?;
            let is_empty = step.argv.is_empty() && !step.has_assignments;
            match (is_empty, next) {
                // The end, after a `;` or a line break.
                (true, Next::End)
                    if steps
                        .last()
                        .is_some_and(|last: &Step| last.next == Some(Operator::Then)) =>
                {
                    if let Some(last) = steps.last_mut() {
                        last.next = None;
                    }
                    break;
                }
                // Empty lines, also after an operator that waits for more.
                (true, Next::Line) => continue,
                (true, _) => return None,
                (false, next) => {
                    // Assignments alone change the shell itself.
                    if step.argv.is_empty() || steps.len() >= STEPS_MAX {
                        return None;
                    }
                    let operator = match next {
                        Next::End => None,
                        Next::Line => Some(Operator::Then),
                        Next::Operator(operator) => Some(operator),
                    };
                    steps.push(Step {
                        next: operator,
                        ..step
                    });
                    if operator.is_none() {
                        break;
                    }
                }
            }
        }
        (!steps.is_empty()).then_some(Self { steps })
    }

    /// The same line with words that no shell makes anything else of; `program` names what a step runs.
    pub(super) fn pinned(&self, program: impl Fn(usize, &Step) -> String) -> String {
        let mut out = String::new();
        for (at, step) in self.steps.iter().enumerate() {
            out.push_str(&quoted(&program(at, step)));
            for argument in &step.argv[1..] {
                out.push(' ');
                out.push_str(&quoted(argument));
            }
            out.push_str(step.next.map_or("", Operator::as_str));
        }
        out
    }
}

/// A word that a shell takes as it is.
pub(super) fn quoted(word: &str) -> String {
    let is_plain = !word.is_empty()
        && word
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_@%+:,./-".contains(&byte));
    match is_plain {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r#"'"'"'"#)),
    }
}

enum Next {
    End,
    Line,
    Operator(Operator),
}

struct Reader {
    chars: Vec<char>,
    at: usize,
}

#[derive(Default)]
struct Word {
    text: String,
    is_begun: bool,
    is_quoted: bool,
    has_patterns: bool,
}

impl Reader {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn step(&mut self) -> Option<Step> {
        let mut step = Step {
            argv: Vec::new(),
            has_assignments: false,
            has_patterns: false,
            next: None,
        };
        loop {
            while matches!(self.peek(0), Some(' ' | '\t')) {
                self.at += 1;
            }
            if self.peek(0) == Some('#') {
                while self.peek(0).is_some_and(|char| char != '\n') {
                    self.at += 1;
                }
            }
            let word = self.word()?;
            if !word.is_begun {
                return Some(step);
            }
            if step.argv.is_empty() && !word.is_quoted {
                if RESERVED.contains(&word.text.as_str()) {
                    return None;
                }
                if is_assignment(&word.text) {
                    step.has_assignments = true;
                    continue;
                }
            }
            if step.argv.is_empty()
                && (word.has_patterns || word.text.is_empty() || word.text.contains('='))
            {
                // Which program it is, is not certain.
                return None;
            }
            step.has_patterns |= word.has_patterns;
            step.argv.push(word.text);
        }
    }

    fn word(&mut self) -> Option<Word> {
        let mut word = Word::default();
        while let Some(char) = self.peek(0) {
            match char {
                ' ' | '\t' | '\n' | ';' | '|' | '&' => break,
                '<' | '>' | '(' | ')' | '`' => return None,
                '\'' => {
                    self.at += 1;
                    let end = self.chars[self.at..]
                        .iter()
                        .position(|char| *char == '\'')?;
                    let inner = &self.chars[self.at..self.at + end];
                    if !inner.iter().all(|char| is_certain(*char)) {
                        return None;
                    }
                    word.text.extend(inner);
                    self.at += end + 1;
                    (word.is_begun, word.is_quoted) = (true, true);
                }
                '"' => {
                    self.at += 1;
                    self.double_quoted(&mut word)?;
                    (word.is_begun, word.is_quoted) = (true, true);
                }
                '\\' => {
                    let next = self
                        .peek(1)
                        .filter(|next| *next != '\n' && is_certain(*next))?;
                    word.text.push(next);
                    self.at += 2;
                    (word.is_begun, word.is_quoted) = (true, true);
                }
                '$' => {
                    // A dollar sign is itself only where nothing can follow it.
                    if !matches!(
                        self.peek(1),
                        None | Some(' ' | '\t' | '\n' | ';' | '|' | '&')
                    ) {
                        return None;
                    }
                    word.text.push('$');
                    word.is_begun = true;
                    self.at += 1;
                }
                char if !is_certain(char) => return None,
                char => {
                    // Other shells than sh have more patterns; every one of their signs counts.
                    let is_pattern = matches!(char, '*' | '?' | '[' | ']' | '{' | '}' | '^')
                        || (char == '~'
                            && (!word.is_begun
                                || matches!(word.text.chars().last(), Some(':' | '='))))
                        || (char == '=' && !word.is_begun);
                    word.has_patterns |= is_pattern;
                    word.text.push(char);
                    word.is_begun = true;
                    self.at += 1;
                }
            }
        }
        // `[` is a program when it stands alone.
        if word.text == "[" || word.text == "]" || word.text == "{" || word.text == "}" {
            word.has_patterns = false;
        }
        Some(word)
    }

    fn double_quoted(&mut self, word: &mut Word) -> Option<()> {
        loop {
            match self.peek(0)? {
                '"' => {
                    self.at += 1;
                    return Some(());
                }
                '`' => return None,
                '$' => {
                    if self.peek(1) != Some('"') {
                        return None;
                    }
                    word.text.push('$');
                    self.at += 1;
                }
                '\\' => {
                    match self.peek(1)? {
                        '\n' => return None,
                        escaped @ ('$' | '`' | '"' | '\\') => word.text.push(escaped),
                        other if is_certain(other) => word.text.extend(['\\', other]),
                        _ => return None,
                    }
                    self.at += 2;
                }
                // Some shells put history in its place.
                '!' => return None,
                char if is_certain(char) => {
                    word.text.push(char);
                    self.at += 1;
                }
                _ => return None,
            }
        }
    }

    fn operator(&mut self) -> Option<Next> {
        let next = match (self.peek(0), self.peek(1), self.peek(2)) {
            (None, _, _) => return Some(Next::End),
            (Some('\n'), _, _) => (1, Next::Line),
            (Some(';'), Some(';' | '&' | '|'), _) => return None,
            (Some(';'), _, _) => (1, Next::Operator(Operator::Then)),
            (Some('|'), Some('|'), _) => (2, Next::Operator(Operator::Or)),
            // `|&` joins both streams.
            (Some('|'), Some('&'), _) => return None,
            (Some('|'), _, _) => (1, Next::Operator(Operator::Pipe)),
            (Some('&'), Some('&'), _) => (2, Next::Operator(Operator::And)),
            _ => return None,
        };
        self.at += next.0;
        Some(next.1)
    }
}

/// Characters that every shell reads alike.
fn is_certain(char: char) -> bool {
    matches!(char, '\t' | '\n')
        || !(char.is_control()
            || super::output::is_format(char)
            || (char.is_whitespace() && char != ' '))
}

fn is_assignment(word: &str) -> bool {
    let Some((name, _)) = word.split_once('=') else {
        return false;
    };
    let name = name.strip_suffix('+').unwrap_or(name);
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pinned(line: &str) -> Option<String> {
        Plan::read(line).map(|plan| plan.pinned(|_, step| step.argv[0].clone()))
    }

    #[test]
    fn words_are_those_that_the_shell_would_make() {
        let check = |line: &str, expected: &str| {
            assert_eq!(pinned(line).as_deref(), Some(expected), "{line}");
        };
        check("ls", "ls");
        check("  ls  -la\t x ", "ls -la x");
        check("echo 'a'\"b\"c", "echo abc");
        check("echo a\\ b", "echo 'a b'");
        check("echo \"a\\$b\"", "echo 'a$b'");
        check("echo '$HOME'", "echo '$HOME'");
        check("echo \"it's\"", "echo 'it'\"'\"'s'");
        check("echo 5$ $", "echo '5$' '$'");
        check("echo a=b a#b", "echo 'a=b' 'a#b'");
        check("a | b && c || d; e", "a | b && c || d; e");
        check("a\nb\n\n# over\nc # and out", "a; b; c");
        check("a;\nb", "a; b");
        check("a |\n b &&\nc", "a | b && c");
        check("a;", "a");
        check("\\ls", "ls");
        check("\"ls\"", "ls");
        check("[ -f x ]", "'[' -f x ']'");
        check("echo \"a\nb\"", "echo 'a\nb'");
        check("echo !x", "echo '!x'");
        check("echo \"\"", "echo ''");
    }

    #[test]
    fn what_is_not_certain_is_not_analysed() {
        for line in [
            "",
            "   ",
            "# only a comment",
            "echo $HOME",
            "echo ${HOME}",
            "echo \"$HOME\"",
            "echo $(id)",
            "echo `id`",
            "echo \"`id`\"",
            "ls > x",
            "ls 2>&1",
            "cat < x",
            "cat <<E\nx\nE",
            "ls &",
            "ls & ls",
            "(ls)",
            "{ ls; }",
            "if true; then ls; fi",
            "for a in b; do c; done",
            "! ls",
            "time ls",
            "ls |& cat",
            "echo hi;;",
            "&& ls",
            "ls &&",
            "ls ||",
            "ls |",
            "; ls",
            "echo a\\\nb",
            "echo 'open",
            "echo \"open",
            "echo $'a'",
            "echo \"a!b\"",
            "A=1",
            "f() { ls; }",
            "echo a\rb",
            "echo\u{a0}hi",
            "echo \u{202e}x",
            "l?",
            "~/x y",
            "=ls",
            "a=b=c",
            "function f",
            "ls\u{0}",
            "\\",
            "[[ a ]]",
        ] {
            assert_eq!(pinned(line), None, "{line:?}");
        }
        assert!(Plan::read(&"a;".repeat(STEPS_MAX + 1)).is_none());
    }

    #[test]
    fn what_a_shell_would_expand_is_marked() {
        let step = |line: &str| Plan::read(line).expect(line).steps.remove(0);
        for line in [
            "ls *",
            "ls a?b",
            "ls [x]",
            "ls a[b",
            "echo {a,b}",
            "echo ~",
            "echo a=~",
            "echo =ls",
            "echo a^b",
        ] {
            assert!(step(line).has_patterns, "{line}");
        }
        for line in ["ls '*'", "ls \\*", "echo a~b", "[ -f x ]", "echo \"~\""] {
            assert!(!step(line).has_patterns, "{line}");
        }
        assert!(step("A=1 B=2 ls").has_assignments);
        assert!(!step("ls A=1").has_assignments);
    }
}
