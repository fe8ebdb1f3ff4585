package definition

import (
	"encoding/json"
	"fmt"
)

// step brings a definition from one level to the next. It gets the members as they were written, and changes them in place.
type step func(members map[string]json.RawMessage) error

// steps is the table of migrations: the first leads from level 1 to level 2, and so on. A step is never changed once a qlive that has
// it was released: files of its level exist.
func steps() []step {
	return []step{withPolicy}
}

// withPolicy: level 1 had no limits, no restart and no autostart, so a VM had no limits and stayed as it was left.
func withPolicy(members map[string]json.RawMessage) error {
	for _, name := range []string{"limits", "restart", "autostart", "boot_id"} {
		if _, ok := members[name]; ok {
			return fmt.Errorf("a definition of level 1 has no member %q", name)
		}
	}
	members["limits"], members["restart"], members["autostart"] = json.RawMessage("{}"), json.RawMessage(`"never"`), json.RawMessage("false")
	return nil
}

// upgrade gives the text of a definition of a level as one of the level that the steps lead to.
func upgrade(text []byte, level int, steps []step) ([]byte, error) {
	if level > len(steps) {
		return text, nil
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil {
		return nil, err
	}
	for i, s := range steps[level-1:] {
		if err := s(members); err != nil {
			return nil, fmt.Errorf("it cannot be brought from format level %d to %d: %w", level+i, level+i+1, err)
		}
	}
	members["level"] = fmt.Appendf(nil, "%d", len(steps)+1)
	return json.Marshal(members)
}
