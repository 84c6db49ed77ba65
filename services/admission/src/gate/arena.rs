/// No node.
const NONE: u32 = u32::MAX;

/// Values in doubly linked lists that share one allocation: adding, and removing from anywhere, take constant
/// time.
#[derive(Debug)]
pub(super) struct Arena<T> {
    nodes: Vec<Node<T>>,
    /// The first vacant node; `next` leads to the others.
    vacant: u32,
}

#[derive(Debug)]
struct Node<T> {
    /// `None` when vacant.
    value: Option<T>,
    previous: u32,
    next: u32,
}

/// One list in an arena.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    head: u32,
    tail: u32,
    len: u32,
}

impl Default for List {
    fn default() -> Self {
        Self { head: NONE, tail: NONE, len: 0 }
    }
}

impl List {
    pub(super) fn first(&self) -> Option<u32> {
        (self.head != NONE).then_some(self.head)
    }

    pub(super) fn last(&self) -> Option<u32> {
        (self.tail != NONE).then_some(self.tail)
    }

    pub(super) fn len(&self) -> u32 {
        self.len
    }
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Self { nodes: Vec::new(), vacant: NONE }
    }
}

impl<T> Arena<T> {
    pub(super) fn get(&self, node: u32) -> Option<&T> {
        self.nodes.get(node as usize)?.value.as_ref()
    }

    pub(super) fn get_mut(&mut self, node: u32) -> Option<&mut T> {
        self.nodes.get_mut(node as usize)?.value.as_mut()
    }

    /// The most values that there ever were at a time.
    #[cfg(test)]
    pub(super) fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Adds a value at the end of a list. Callers hold far fewer than 2^32 values.
    pub(super) fn push(&mut self, list: &mut List, value: T) -> u32 {
        let node = self.vacant;
        let node = if node == NONE {
            self.nodes.push(Node { value: Some(value), previous: NONE, next: NONE });
            (self.nodes.len() - 1) as u32
        } else {
            self.vacant = self.nodes[node as usize].next;
            self.nodes[node as usize].value = Some(value);
            node
        };
        self.link(list, node);
        node
    }

    /// Takes a value out of the list that it is in.
    pub(super) fn remove(&mut self, list: &mut List, node: u32) -> Option<T> {
        let value = self.nodes.get_mut(node as usize)?.value.take()?;
        self.unlink(list, node);
        self.nodes[node as usize].next = self.vacant;
        self.vacant = node;
        Some(value)
    }

    /// Moves the first of a list to its end.
    pub(super) fn rotate(&mut self, list: &mut List) {
        if let Some(first) = list.first() {
            self.unlink(list, first);
            self.link(list, first);
        }
    }

    fn link(&mut self, list: &mut List, node: u32) {
        let tail = list.tail;
        self.nodes[node as usize].previous = tail;
        self.nodes[node as usize].next = NONE;
        if tail == NONE {
            list.head = node;
        } else {
            self.nodes[tail as usize].next = node;
        }
        list.tail = node;
        list.len += 1;
    }

    fn unlink(&mut self, list: &mut List, node: u32) {
        let Node { previous, next, .. } = self.nodes[node as usize];
        if previous == NONE {
            list.head = next;
        } else {
            self.nodes[previous as usize].next = next;
        }
        if next == NONE {
            list.tail = previous;
        } else {
            self.nodes[next as usize].previous = previous;
        }
        list.len -= 1;
    }
}
