// Package backing tests that a handoff changes what a guest's RAM is made of: ordinary pages, huge pages, a file on hugetlbfs, and back; that no more than
// the chunks in flight are held twice; and that nothing is lost whoever dies in the middle of it.
package backing
