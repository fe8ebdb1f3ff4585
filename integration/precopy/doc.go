// Package precopy tries mode precopy on real QEMUs: guests of a stranger's whose RAM cannot be shared, and guests of qlive's whose RAM becomes something else.
package precopy
