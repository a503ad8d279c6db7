"""Run plain Python functions over thousands of inputs on your own EC2 instances."""
