package routes

// CheckRanges looks for ranges that overlap each other, which works nowhere. Unlike
// Check it doesn't look at this host, so it needs no privilege.
func CheckRanges(c Config) error {
	_, err := checkOverlaps(c.ranges(), nil)
	return err
}
